"""Servers asked over HTTP, by a small real one."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.deploy_commands import explain
from tasks.services.errors import BusyError, RefusedError, ServicesError, UnreachableError
from tasks.services.pools import ensure_process_pool, refuse_other_servers
from tasks.services.preparing import prepare_external
from tasks.services.profile import with_profile
from tasks.services.web import is_loopback, mlflow_server, prefect_server, without_password
from tests.unit.services.site import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that answers as planted."""
    with serving() as server:
        yield server


def test_a_refused_token_is_told_as_such(site: Site) -> None:
    """401 is another fault than no answer, and another variable to look at."""
    site.answers["/work_pools/filter"] = (401, {"detail": "Unauthorized"})
    prefect = prefect_server(site.url, {"PREFECT_API_KEY": "pnu_secret"})

    with pytest.raises(RefusedError) as raised:
        prefect.ask("/work_pools/filter", {"limit": 1})

    told = explain(raised.value)
    assert f"the Prefect server at {site.url} answers 401" in told
    assert "check PREFECT_API_KEY or PREFECT_API_AUTH_STRING" in told
    assert "secret" not in told + repr(prefect)
    assert site.asked[0][3] == "Bearer pnu_secret"


def test_the_key_of_a_profile_is_used(site: Site, tmp_path: Path) -> None:
    """As Prefect's client does it: what the profile says, unless a variable says otherwise."""
    site.answers["/work_pools/filter"] = (200, [])
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(
        'active = "site"\n[profiles.site]\n'
        f'PREFECT_API_URL = "{site.url}"\nPREFECT_API_KEY = "of the profile"\n'
    )
    user = {"HOME": str(tmp_path)}

    for environment in (user, user | {"PREFECT_API_KEY": "mine"}):
        known = with_profile(environment)
        prefect_server(known["PREFECT_API_URL"], known).ask("/work_pools/filter", {})
    password = with_profile(user | {"PREFECT_API_AUTH_STRING": "a:b"})
    prefect_server(site.url, password).ask("/work_pools/filter", {})

    assert [one[3] for one in site.asked] == ["Bearer of the profile", "Bearer mine", "Basic YTpi"]
    assert with_profile(user | {"PREFECT_PROFILE": "none"}) == user | {"PREFECT_PROFILE": "none"}


def test_external_servers_may_be_those_of_the_profile(site: Site, tmp_path: Path) -> None:
    """Its address and its key; what is missing is told with both ways to say it."""
    site.answers["/work_pools/filter"] = (401, {})
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        f'active = "site"\n[profiles.site]\nPREFECT_API_URL = "{site.url}"\n'
        'PREFECT_API_KEY = "of the profile"\n'
    )
    user = {"HOME": str(tmp_path), "MLFLOW_TRACKING_URI": "sqlite:///x"}

    with pytest.raises(ServicesError, match="or a Prefect profile with a server"):
        prepare_external(tmp_path, "p", user, has_worker=False)
    with pytest.raises(RefusedError):
        prepare_external(
            tmp_path, "p", user | {"PREFECT_PROFILES_PATH": str(profiles)}, has_worker=False
        )

    assert site.asked[0][3] == "Bearer of the profile"


def test_a_server_that_is_not_there_is_told_with_the_variable() -> None:
    """What was tried, and what to set."""
    mlflow = mlflow_server("http://127.0.0.1:1", {})

    with pytest.raises(UnreachableError) as raised:
        mlflow.ask("/health")

    told = explain(raised.value)
    assert "the MLflow server at http://127.0.0.1:1 does not answer: Connection refused" in told
    assert "MLFLOW_TRACKING_URI" in told
    assert not mlflow.answers("/health")


@pytest.mark.parametrize("address", ["site/api", "http://h:abc/api", "http://[::1/api"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    """No traceback, whatever the variable holds."""
    for server in (prefect_server(address, {}), mlflow_server(address, {})):
        with pytest.raises(UnreachableError, match=r"the (Prefect|MLflow) server"):
            server.ask("/health")


def test_what_speaks_no_http_is_told() -> None:
    """Another program's port, by mistake."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(UnreachableError, match=r"does not answer: SSH-2\.0-x$"):
            prefect_server(f"http://127.0.0.1:{listening.getsockname()[1]}", {}).ask("/x")
        thread.join()


def test_other_errors_come_with_the_servers_words(site: Site) -> None:
    """A 500 is not a refusal."""
    site.answers["/x"] = (500, {"detail": "no disk"})

    with pytest.raises(UnreachableError, match=r"answers 500 .*: .*no disk"):
        prefect_server(site.url, {}).ask("/x")


@pytest.mark.parametrize("status", [408, 429, 502, 503])
def test_a_busy_server_is_asked_again(site: Site, status: int) -> None:
    """As Prefect's client does: its server answers 503 where another has just written to SQLite."""
    site.answers["/work_pools/"] = (201, {"name": "p"})
    site.busy = [status, status]

    answer = prefect_server(site.url, {}).ask("/work_pools/", {"name": "p"})

    assert answer == {"name": "p"}
    assert [one[:3] for one in site.asked] == [("POST", "/work_pools/", {"name": "p"})] * 3


def test_a_server_that_stays_busy_is_told(site: Site) -> None:
    """After so many tries; to the question whether it is well there is but one."""
    site.busy = [503] * 4
    prefect = replace(prefect_server(site.url, {}), pauses_s=(0.01, 0.01))

    with pytest.raises(BusyError, match=r"the Prefect server at .* answers 503 .*: .*Unavailable"):
        prefect.ask("/flow_runs/count", {})

    assert len(site.asked) == 3
    assert not prefect.answers("/health")
    assert len(site.asked) == 4


@pytest.mark.parametrize(
    ("environment", "user", "login"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "b"}, "", "Basic YTpi"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "", "Bearer t"),
        ({}, "a:b@", "Basic YTpi"),
        ({}, "", ""),
    ],
)
def test_mlflow_is_asked_with_the_users_login(
    site: Site, environment: dict[str, str], user: str, login: str
) -> None:
    """As MLflow's own client does it; the address that is shown has none of it."""
    site.answers["/health"] = (200, None)
    mlflow = mlflow_server(site.url.replace("//", f"//{user}"), environment)

    assert mlflow.answers("/health")
    assert site.asked[0][3] == login
    assert mlflow.url == site.url


def test_a_pool_that_another_checkout_serves_is_refused(site: Site) -> None:
    """Who serves it, where its deployments run, and what to do; our own ghost is no other."""
    workers = [
        {"name": "head:co-1", "status": "ONLINE", "last_heartbeat_time": "2026-01-01T02:03:04.5Z"},
        {"name": "gone:co-2", "status": "OFFLINE", "last_heartbeat_time": "2025-01-01T02:03:04Z"},
        {"name": "ours", "status": "ONLINE", "last_heartbeat_time": "2026-01-01T02:03:04Z"},
    ]
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": "/home/a/co"}}]
    site.answers["/work_pools/filter"] = (200, [{"name": "p", "type": "process"}])
    site.answers["/work_pools/p/workers/filter"] = (200, workers)
    site.answers["/deployments/filter"] = (200, [{"pull_steps": steps}])
    prefect = prefect_server(site.url, {})

    with pytest.raises(ServicesError) as raised:
        refuse_other_servers(prefect, "p", "ours")
    with pytest.raises(ServicesError, match="served already"):
        refuse_other_servers(prefect, "p", "ours", deploying_from=Path("/home/b/co"))
    refuse_other_servers(prefect, "p", "ours", deploying_from=Path("/home/a/co"))
    site.answers["/work_pools/p/workers/filter"] = (200, workers[1:])
    refuse_other_servers(prefect, "p", "ours")

    told = str(raised.value)
    assert "served already, by head:co-1 (last seen 2026-01-01T02:03:04)" in told
    assert "with the deployments of /home/a/co" in told
    assert "--pool watershed-" in told
    assert "gone" not in told.partition("Stop")[0]


def test_a_pool_is_made_once_and_keeps_its_type(site: Site) -> None:
    """A pool of another type has another worker."""
    site.answers["/work_pools/filter"] = (200, [])
    site.answers["/work_pools/"] = (201, {})
    prefect = prefect_server(site.url, {})

    ensure_process_pool(prefect, "p")
    made = site.asked[-1]
    site.answers["/work_pools/filter"] = (200, [{"name": "p", "type": "slurm"}])

    assert made[1] == "/work_pools/"
    assert made[2]["type"] == "process"
    with pytest.raises(ServicesError, match="is of type slurm, and is served by: prefect worker"):
        ensure_process_pool(prefect, "p")


def test_a_server_that_wants_tokens_gets_one_and_another_when_it_has_expired(site: Site) -> None:
    """Fetched once, with the password, and sent from then on; a busy server is asked again."""
    site.answers["/work_pools/filter"] = (200, [])
    site.token = "first"  # noqa: S105
    prefect = prefect_server(site.url, {"PREFECT_API_AUTH_STRING": "a:b"})
    prefect = replace(prefect, pauses_s=(0.01, 0.01))

    answers = [prefect.ask("/work_pools/filter", {}) for _ in range(2)]
    site.token, site.busy = "second", [503]
    answers.append(prefect.ask("/work_pools/filter", {}))

    assert answers == [[], [], []]
    fetched = [login for method, path, _, login in site.asked if "csrf-token" in path]
    assert fetched == ["Basic YTpi"] * 2
    assert "second" not in repr(prefect)


def test_a_server_that_refuses_its_own_token_is_told(site: Site) -> None:
    """A proxy that drops the headers, say: no endless loop."""
    site.answers["/work_pools/filter"] = (403, {"detail": "Missing CSRF token."})
    site.token = "x"  # noqa: S105
    prefect = prefect_server(site.url, {})

    with pytest.raises(RefusedError, match="answers 403"):
        prefect.ask("/work_pools/filter", {})

    assert len(site.asked) == 3


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("[::1]", True), ("0.0.0.0", False), ("a", False)],  # noqa: S104
)
def test_loopback_is_known(host: str, *, expected: bool) -> None:
    """Only there nobody else can come in."""
    assert is_loopback(host) is expected


def test_urls_are_shown_without_passwords() -> None:
    """They are written to services.json, and to the terminal."""
    assert without_password("https://a:b@host:5000/x?y=1") == "https://host:5000/x?y=1"
    assert without_password("http://host") == "http://host"


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({}, "set PREFECT_API_URL (such as http://prefect.example.org:4200/api) and MLFLOW_TRACK"),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "set MLFLOW_TRACKING_URI (such as"),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:1/api", "MLFLOW_TRACKING_URI": "http://x"},
            "the Prefect server at http://127.0.0.1:1/api does not answer: Connection refused",
        ),
    ],
)
def test_external_servers_have_to_answer(tmp_path: Path, own: dict[str, str], told: str) -> None:
    """Before anything is started: what was tried, and what to set."""
    with pytest.raises(ServicesError) as raised:
        prepare_external(tmp_path, "watershed", own, has_worker=True)

    assert told in str(raised.value)
    assert not list(tmp_path.iterdir())
