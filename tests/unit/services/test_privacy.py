"""Whose a data directory is."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tasks.services.errors import ServicesError
from tasks.services.privacy import refuse_shared

_STRANGER = 54321
"""No user and no group of a test machine."""
_IS_ROOT = os.geteuid() == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with what an earlier `up` has left, readable by all."""
    (tmp_path / "data" / "prefect").mkdir(parents=True)
    (tmp_path / "data" / "prefect" / "prefect.db").touch()
    (tmp_path / "data" / "mlflow.db").touch()
    for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
        path.chmod(0o755)
    return tmp_path / "data"


def test_a_directory_that_others_can_read_stays_as_it_is(data: Path) -> None:
    """Results are shown to colleagues; that is the user's choice."""
    refuse_shared(data)

    assert data.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", [".", "prefect", "prefect/prefect.db", "mlflow.db"])
def test_what_others_can_write_to_is_refused_until_the_advice_is_followed(
    data: Path, name: str
) -> None:
    """The directory and the databases, whose content becomes commands; the advice mends it."""
    (data / name).chmod(0o757)

    with pytest.raises(ServicesError, match="can be written to by all users") as raised:
        refuse_shared(data)

    _, _, advice = str(raised.value).partition("run: ")
    subprocess.run(shlex.split(advice.partition("  (")[0]), check=True)
    refuse_shared(data)


def test_a_group_counts_unless_it_is_the_users_alone(data: Path) -> None:
    """A project's group can write; the group that a system makes for each user has one member."""
    data.chmod(0o775)
    if not _IS_ROOT:
        pytest.skip("only root can give a directory to any group")
    os.chown(data, -1, _STRANGER)

    with pytest.raises(ServicesError, match=f"{data} can be written to by the group {_STRANGER}"):
        refuse_shared(data)

    os.chown(data, -1, 0)  # root's own
    refuse_shared(data)


def test_a_directory_of_another_user_is_refused(data: Path) -> None:
    """Its owner can replace what is in it, whatever its mode is."""
    if _IS_ROOT:
        os.chown(data, _STRANGER, -1)
    theirs = data if _IS_ROOT else Path("/usr")

    with pytest.raises(ServicesError, match=f"{theirs} belongs to the user .* with --data"):
        refuse_shared(theirs)
