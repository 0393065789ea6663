"""`watershed up` up to where it starts something."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.command_line import app
from tasks.services.login import LOGIN_NAME


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Files are readable by all, as for most users."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _up(*options: str | Path) -> Result:
    return CliRunner(env={"WATERSHED_LOGIN": None}).invoke(app, ["up", *map(str, options)])


def test_what_it_makes_is_for_the_user_alone(tmp_path: Path) -> None:
    """From the first file on, whatever the umask of the shell is; so far it is refused a port."""
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ended = _up("--data", data, "--prefect-port", str(port))

    assert ended.exit_code == 2
    assert f"port {port} is in use" in ended.output
    made = [data, *data.rglob("*")]
    assert len(made) > 1
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    assert os.umask(0o077) == 0o077  # of all that it would have started


def test_a_directory_of_others_is_refused_before_anything_is_made_there(tmp_path: Path) -> None:
    """In words, with the command that mends it."""
    tmp_path.chmod(0o757)

    ended = _up("--data", tmp_path)

    assert ended.exit_code == 2
    assert f"run: chmod go-w {tmp_path} " in ended.output
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """Nothing has begun, so the exit code is 2; the option that names another one is said."""
    data = tmp_path / "data"
    data.write_text("mine")

    ended = _up("--data", data)

    assert ended.exit_code == 2
    assert f"{data} cannot be used: " in ended.output
    assert "name another one with --data" in ended.output


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_site_has_a_login_of_its_own(tmp_path: Path, *, by_variable: bool) -> None:
    """It is said what to leave out, and nothing is made."""
    data = tmp_path / "data"
    options = ["up", "--external", "--data", str(data), *(["--login"] * (not by_variable))]
    environment = {"WATERSHED_LOGIN": "1" if by_variable else None}

    ended = CliRunner(env=environment).invoke(app, options)

    assert ended.exit_code == 2
    assert "leave out --login (or WATERSHED_LOGIN)" in ended.output
    assert not data.exists()


def test_no_login_is_made_for_servers_that_cannot_start(tmp_path: Path) -> None:
    """A port is asked for first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = _up("--login", "--data", tmp_path, "--mlflow-port", str(taken.getsockname()[1]))

    assert ended.exit_code == 2
    assert not (tmp_path / LOGIN_NAME).exists()
