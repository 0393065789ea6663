"""Commands, environments and addresses of what `up` starts."""

import socket
from pathlib import Path

import pytest
import yaml

from tasks.services.database import parse_database
from tasks.services.deployments import chosen_names, commit_of, deployments_of, name_in_pool, render
from tasks.services.errors import ServicesError
from tasks.services.plan import (
    client_environment,
    client_host,
    mlflow_service,
    own_addresses,
    prefect_service,
    public_host,
    worker_name,
    worker_service,
)

_ROOT = Path(__file__).parents[3]
_DATA = Path("/data")
_SHELL = {
    "PATH": "/bin",
    "PREFECT_API_URL": "http://site/api",
    "PREFECT_API_KEY": "k",
    "PREFECT_PROFILE": "site",
    "WATERSHED_DATABASE": "postgresql://me:secret@db/lab",
    "PGPASSWORD": "secret",
    "MLFLOW_BACKEND_STORE_URI": "postgresql://me:secret@db/mlflow",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:secret@db/prefect",
}


def test_servers_keep_to_the_data_directory_and_say_nothing_home() -> None:
    """SQLite where runs without servers have it, no telemetry, no profile of the user's."""
    prefect = prefect_service(_DATA, "127.0.0.1", 4200, databases=None, environment=_SHELL)
    mlflow = mlflow_service(_DATA, "127.0.0.1", 5000, databases=None, environment=_SHELL)

    assert prefect.environment["PREFECT_HOME"] == "/data/prefect"
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////data/mlflow.db"
    assert mlflow.environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == "/data/mlartifacts"
    assert prefect.environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert mlflow.environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not {"PREFECT_PROFILE", "PREFECT_API_KEY"} & set(prefect.environment)
    assert prefect.environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"


def test_passwords_are_in_the_servers_environment_alone() -> None:
    """No command line has them, and neither has the worker, whose jobs inherit from it."""
    databases = parse_database(_SHELL["WATERSHED_DATABASE"], is_option=False)
    prefect = prefect_service(_DATA, "127.0.0.1", 1, databases=databases, environment=_SHELL)
    mlflow = mlflow_service(_DATA, "127.0.0.1", 2, databases=databases, environment=_SHELL)
    addresses = own_addresses("127.0.0.1", 1, 2)
    client = client_environment(_DATA, addresses, _SHELL, is_external=False, databases=databases)
    worker = worker_service(_DATA, "watershed", "me", client)

    assert "secret" in prefect.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert "secret" in mlflow.environment["MLFLOW_BACKEND_STORE_URI"]
    assert "secret" not in " ".join([*prefect.command, *mlflow.command, *worker.command])
    assert "secret" not in " ".join(worker.environment.values())
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" not in mlflow.environment


def test_flow_runs_of_the_worker_use_our_servers_and_directory() -> None:
    """With servers of our own, what the user's shell says of others does not count."""
    addresses = own_addresses(client_host("0.0.0.0"), 4200, 5000)  # noqa: S104
    client = client_environment(_DATA, addresses, _SHELL, is_external=False)

    assert client["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert client["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert client["WATERSHED_RUNS_DIR"] == "/data"
    assert "127.0.0.1" in client["no_proxy"]
    assert "PREFECT_API_KEY" not in client


def test_links_to_mlflow_are_for_whoever_opens_them() -> None:
    """Flow runs reach our server by the loopback interface; people by its name, or a proxy's."""
    addresses = own_addresses("127.0.0.1", 4200, 5000)
    shell = _SHELL | {"WATERSHED_MLFLOW_UI": "https://lab/mlflow"}
    named = client_environment(
        _DATA, addresses, _SHELL, is_external=False, mlflow_ui="http://head:5000"
    )
    proxied = client_environment(
        _DATA, addresses, shell, is_external=False, mlflow_ui="http://head:5000"
    )
    site = client_environment(_DATA, addresses, shell, is_external=True)

    assert named["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert named["WATERSHED_MLFLOW_UI"] == "http://head:5000"
    assert proxied["WATERSHED_MLFLOW_UI"] == "https://lab/mlflow"
    assert site["WATERSHED_MLFLOW_UI"] == "https://lab/mlflow"


def test_external_servers_are_used_with_the_users_own_variables() -> None:
    """Address, key and profile stay as they are."""
    addresses = own_addresses("127.0.0.1", 1, 2)
    client = client_environment(_DATA, addresses, _SHELL, is_external=True)

    assert client["PREFECT_API_URL"] == "http://site/api"
    assert client["PREFECT_API_KEY"] == "k"
    assert client["PREFECT_PROFILE"] == "site"
    assert client["WATERSHED_RUNS_DIR"] == "/data"


@pytest.mark.parametrize("is_external", [True, False])
def test_a_database_password_of_the_users_own_stays_with_the_flows(*, is_external: bool) -> None:
    """Where no server of ours has PostgreSQL, it is for a flow, or for an MLflow database."""
    addresses = own_addresses("127.0.0.1", 1, 2)
    client = client_environment(_DATA, addresses, _SHELL, is_external=is_external)

    assert client["PGPASSWORD"] == "secret"
    assert "WATERSHED_DATABASE" not in client


@pytest.mark.parametrize(("host", "is_open"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
def test_an_open_mlflow_answers_to_the_names_of_this_machine(host: str, *, is_open: bool) -> None:
    """Its guard against rebinding knows loopback alone, if nobody tells it more."""
    mlflow = mlflow_service(_DATA, host, 5000, databases=None, environment={})

    assert ("MLFLOW_SERVER_ALLOWED_HOSTS" in mlflow.environment) is is_open
    assert mlflow.server is not None
    assert mlflow.server.url == "http://127.0.0.1:5000"


def test_a_proxy_before_the_servers_has_names_of_its_own() -> None:
    """Whoever puts one there says how the servers are called."""
    named = {"MLFLOW_SERVER_ALLOWED_HOSTS": "lab", "PREFECT_UI_API_URL": "https://lab/api"}
    prefect = prefect_service(_DATA, "0.0.0.0", 4200, databases=None, environment=named)  # noqa: S104
    mlflow = mlflow_service(_DATA, "0.0.0.0", 5000, databases=None, environment=named)  # noqa: S104

    assert prefect.environment["PREFECT_UI_API_URL"] == "https://lab/api"
    assert mlflow.environment["MLFLOW_SERVER_ALLOWED_HOSTS"] == "lab"


def test_pages_of_the_web_cannot_use_prefect() -> None:
    """It wants tokens, and lets its own pages alone read them, by each name that it has."""
    shown = {"PREFECT_UI_API_URL": "https://lab/prefect/api"}
    local = prefect_service(_DATA, "127.0.0.1", 4200, databases=None, environment={})
    proxied = prefect_service(_DATA, "0.0.0.0", 4200, databases=None, environment=shown)  # noqa: S104

    origins = local.environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    proxied_origins = proxied.environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert local.environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert set(origins) == {"http://localhost:4200", "http://127.0.0.1:4200"}
    assert {"https://lab", f"http://{socket.gethostname()}:4200"} < set(proxied_origins)


@pytest.mark.parametrize("infix", ["", "API_"])
def test_what_a_user_says_of_pages_goes_before(infix: str) -> None:
    """By either of the two names that Prefect knows, each for itself."""
    csrf = f"PREFECT_SERVER_{infix}CSRF_PROTECTION_ENABLED"
    cors = f"PREFECT_SERVER_{infix}CORS_ALLOWED_ORIGINS"
    said = {csrf: "false", cors: "https://lab"}

    prefect = prefect_service(_DATA, "127.0.0.1", 4200, databases=None, environment=said)
    one = prefect_service(_DATA, "127.0.0.1", 1, databases=None, environment={csrf: "false"})

    kinds = ("_CSRF_PROTECTION_", "_CORS_")
    found = {k: v for k, v in prefect.environment.items() if any(kind in k for kind in kinds)}
    assert found == said
    assert "PREFECT_SERVER_CORS_ALLOWED_ORIGINS" in one.environment


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("host", "host")],  # noqa: S104
)
def test_processes_of_this_machine_reach_what_a_server_binds_to(host: str, expected: str) -> None:
    """All IPv6 addresses are not all IPv4 addresses; a name that loopback contains is not it."""
    mlflow = mlflow_service(_DATA, host, 5000, databases=None, environment={})

    assert client_host(host) == expected
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in mlflow.environment


def test_people_are_given_an_address_that_can_be_reached() -> None:
    """0.0.0.0 is no address to open; its name is one that this machine itself finds."""
    named = public_host("0.0.0.0")  # noqa: S104

    socket.getaddrinfo(named, None)
    assert named != "0.0.0.0"  # noqa: S104
    assert public_host("127.0.0.1") == "127.0.0.1"
    assert public_host("::1") == "[::1]"


def test_workers_are_named_after_host_checkout_and_data() -> None:
    """The same ones are the same worker; with other data, it does not find the others' studies."""
    names = {
        worker_name(host, Path(path), Path(data))
        for host in ("a", "b")
        for path in ("/x/watershed", "/y/watershed")
        for data in ("/x/runs", "/y/runs")
    }

    assert len(names) == 8
    name = worker_name("a", Path("/x/watershed"), Path("/x/runs"))
    assert name.startswith("a:watershed-")
    assert name == worker_name("a", Path("/x/watershed"), Path("/x/runs"))


def test_the_deployments_are_those_of_the_contract() -> None:
    """Names that people, documents and other commands rely on."""
    assert set(deployments_of(_ROOT)) == {
        "federated-study",
        "training-run",
        "scaling-study",
        "nightly-scaling",
        "plan-training",
    }


def test_deployments_of_another_pool_are_others() -> None:
    """They do not take the place of those of the default pool, nor run its nights again."""
    written = yaml.safe_load((_ROOT / "prefect.yaml").read_text())
    found = {"commit": "abc", "checkout": "/here"}
    own = yaml.safe_load(render(written, list(deployments_of(_ROOT)), "hpc", found))
    default = yaml.safe_load(render(written, ["nightly-scaling"], "watershed", found))

    assert {one["name"] for one in own["deployments"]} == {
        name_in_pool(name, "hpc") for name in deployments_of(_ROOT)
    }
    assert {one["work_pool"]["name"] for one in own["deployments"]} == {"hpc"}
    schedules = [s for one in own["deployments"] for s in one["schedules"]]
    assert [schedule["active"] for schedule in schedules] == [False]
    (nightly,) = default["deployments"]
    assert nightly["name"] == "nightly-scaling"
    assert nightly["version"] == "abc"
    assert nightly["schedules"][0]["active"]
    assert nightly["concurrency_limit"]["limit"] == 1
    assert default["pull"][0]["prefect.deployments.steps.set_working_directory"] == {
        "directory": "/here"
    }


def test_a_checkout_may_have_a_quote_in_its_name() -> None:
    """It is written into YAML."""
    written = yaml.safe_load((_ROOT / "prefect.yaml").read_text())
    found = {"commit": "abc", "checkout": "/home/o'neil/watershed"}

    rendered = yaml.safe_load(render(written, ["nightly-scaling"], "watershed", found))

    (step,) = rendered["pull"]
    assert next(iter(step.values()))["directory"] == "/home/o'neil/watershed"


def test_unknown_deployments_are_told_with_those_that_there_are() -> None:
    """FLOW/NAME, as Prefect writes it, is understood, too."""
    assert chosen_names(_ROOT, ["nightly/nightly-scaling"]) == ["nightly-scaling"]
    with pytest.raises(ServicesError, match="--name nightly: no such deployment; there are fed"):
        chosen_names(_ROOT, ["nightly"])


def test_code_that_is_not_from_git_has_no_version(tmp_path: Path) -> None:
    """A tarball can be deployed, too."""
    assert commit_of(tmp_path) == "unknown"
