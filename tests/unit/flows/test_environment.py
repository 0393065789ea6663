"""The environment of a flow's process."""

from pathlib import Path

import pytest

from flows.environment import flow_environment, has_own_prefect


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
