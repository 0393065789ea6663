"""The environment of a flow's process."""

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.environment import chosen_api, flow_environment, has_own_prefect, told_servers
from tasks.services.processes import boot_id
from tasks.services.state import Services, claimed, write_services


def test_without_a_prefect_of_ones_own_its_database_is_beside_the_runs(tmp_path: Path) -> None:
    """A first user gets a database in the runs' directory, and time for it to be made."""
    environment = flow_environment(tmp_path / "runs", {"HOME": str(tmp_path)})

    assert environment["PREFECT_HOME"] == str(tmp_path / "runs" / "prefect")
    assert int(environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"]) >= 60
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize(
    "name", ["PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"]
)
def test_a_prefect_of_ones_own_is_left_alone(tmp_path: Path, name: str) -> None:
    """Whoever has chosen a server, a home or a profile keeps it."""
    chosen = {"HOME": str(tmp_path), name: "mine"}

    environment = flow_environment(tmp_path, chosen)

    assert has_own_prefect(chosen)
    assert environment[name] == "mine"
    assert environment.get("PREFECT_HOME", "mine") == "mine"


def test_a_profile_file_counts_as_a_choice(tmp_path: Path) -> None:
    """A user with profiles has set Prefect up before."""
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").touch()

    assert has_own_prefect({"HOME": str(tmp_path)})
    assert not has_own_prefect({"HOME": str(tmp_path / "other")})


def test_the_temporary_server_is_not_sought_behind_a_proxy(tmp_path: Path) -> None:
    """This machine is added to the hosts without a proxy; those named before stay."""
    environment = flow_environment(
        tmp_path, {"HOME": str(tmp_path), "https_proxy": "http://proxy:8080", "NO_PROXY": "intra"}
    )

    assert environment["NO_PROXY"] == "intra,127.0.0.1,localhost"
    assert environment["no_proxy"] == "127.0.0.1,localhost"
    assert environment["https_proxy"] == "http://proxy:8080"


def test_the_servers_database_is_nothing_for_flows_and_jobs(tmp_path: Path) -> None:
    """Its password is exported in the shell in which `up` and `run` are typed."""
    user = {"HOME": str(tmp_path), "WATERSHED_DATABASE": "postgresql://me:secret@db/lab"}

    assert "WATERSHED_DATABASE" not in flow_environment(tmp_path, user)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Path]:
    """A runs directory in which `up` is up."""
    services = Services(
        phase="up",
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        started=datetime.now(UTC),
        prefect_api="http://127.0.0.1:4242/api",
        prefect_ui="http://127.0.0.1:4242",
        mlflow="http://127.0.0.1:5252",
        pool="watershed",
        worker="me",
        is_external=False,
    )
    runs_dir = tmp_path / "runs"
    runs_dir.mkdir()
    with claimed(runs_dir):
        write_services(runs_dir, services)
        yield runs_dir


def test_servers_that_are_up_are_used(up: Path, tmp_path: Path) -> None:
    """A run in the directory of `up` is seen in its browser windows, and the command says so."""
    user = {"HOME": str(tmp_path)}

    environment = flow_environment(up, user)

    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4242/api"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5252"
    assert told_servers(up, user) == (
        "Uses the servers of `watershed up`: Prefect http://127.0.0.1:4242, "
        "MLflow http://127.0.0.1:5252"
    )
    assert "PREFECT_API_URL" not in flow_environment(tmp_path / "others", user)
    assert told_servers(tmp_path / "others", user) == ""


@pytest.mark.parametrize(
    ("own", "prefect", "mlflow"),
    [
        ({}, True, True),
        ({"PREFECT_API_AUTH_STRING": "of:elsewhere"}, True, True),
        ({"PREFECT_API_URL": "http://127.0.0.1:4242/api"}, True, True),
        ({"PREFECT_API_URL": "http://site/api"}, False, True),
        ({"MLFLOW_TRACKING_URI": "http://site"}, True, False),
    ],
)
def test_the_login_of_up_goes_to_its_servers_alone(
    up: Path, tmp_path: Path, own: dict[str, str], *, prefect: bool, mlflow: bool
) -> None:
    """Whoever uses one of a site's gives it no password of ours."""
    (up / "login.txt").touch(0o600)
    (up / "login.txt").write_text("watershed:secret\n")
    user = {"HOME": str(tmp_path), **own}

    without = flow_environment(up, user)
    text = (up / "services.json").read_text()
    (up / "services.json").write_text(text.replace('"has_login": false', '"has_login": true'))
    environment = flow_environment(up, user)

    assert "secret" not in " ".join(without.values())
    assert (environment.get("PREFECT_API_AUTH_STRING") == "watershed:secret") is prefect
    assert (environment.get("MLFLOW_TRACKING_USERNAME") == "watershed") is mlflow
    assert (environment.get("MLFLOW_TRACKING_PASSWORD") == "secret") is mlflow


def test_what_the_user_says_goes_before_what_is_up(up: Path, tmp_path: Path) -> None:
    """Each variable for itself."""
    user = {"HOME": str(tmp_path), "PREFECT_API_URL": "http://site/api"}

    environment = flow_environment(up, user)

    assert environment["PREFECT_API_URL"] == "http://site/api"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5252"
    assert told_servers(up, user) == (
        "Uses the servers of `watershed up`: MLflow http://127.0.0.1:5252"
    )
    assert told_servers(up, user | {"MLFLOW_TRACKING_URI": "http://site"}) == ""


@pytest.mark.parametrize(
    ("profile", "api"),
    [
        ("", None),
        ('[profiles.site]\nPREFECT_LOGGING_LEVEL = "INFO"', None),
        ('[profiles.site]\nPREFECT_API_URL = "http://site/api"', "http://site/api"),
        ("no [toml", None),
    ],
)
def test_only_a_profile_with_a_server_keeps_a_user_from_what_is_up(
    up: Path, tmp_path: Path, profile: str, api: str | None
) -> None:
    """Whoever has once typed `prefect` has a profile, and has chosen nothing by that."""
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect" / "profiles.toml").write_text(f'active = "site"\n{profile}\n')
    user = {"HOME": str(tmp_path)}

    environment = flow_environment(up, user)

    assert chosen_api(user) == api
    assert ("PREFECT_API_URL" in environment) is (api is None)


def test_after_up_all_is_as_before(up: Path, tmp_path: Path) -> None:
    """A record without its lock is no server; nor is one that is still starting."""
    starting = (up / "services.json").read_text().replace('"up"', '"starting"', 1)
    (up / "services.json").write_text(starting)
    other = tmp_path / "other"
    other.mkdir()
    (other / "services.json").write_text(starting.replace('"starting"', '"up"', 1))

    assert "MLFLOW_TRACKING_URI" not in flow_environment(up, {"HOME": str(tmp_path)})
    assert "MLFLOW_TRACKING_URI" not in flow_environment(other, {"HOME": str(tmp_path)})
