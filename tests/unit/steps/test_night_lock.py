"""One night of a study at a time."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.steps.night_lock import night_lock

_LOCK = """
import os, pwd, sys
from pathlib import Path
from tasks.steps.night_lock import night_lock
os.umask(0o077)
os.chdir(sys.argv[1])
os.setuid(int(sys.argv[2]))  # only now: the packages and the way here may be closed to that user
with night_lock(Path("."), "digits", "flow") as holder:
    print(repr(holder), flush=True)
    sys.stdin.read()
"""


def _begin(runs_dir: Path, user: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _LOCK, runs_dir, str(user)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_second_night_is_told_who_has_the_first(tmp_path: Path) -> None:
    """With process, host and flow run; when the first is over, the next one begins."""
    with night_lock(tmp_path, "digits", "warm-owl") as first:
        with night_lock(tmp_path, "digits", "cold-owl") as second:
            pass
        with night_lock(tmp_path, "words", "cold-owl") as other:
            pass
    with night_lock(tmp_path, "digits", "late-owl") as third:
        pass

    assert (first, other, third) == ("", "", "")
    assert second.startswith(f"process {os.getpid()} of ")
    assert "flow run warm-owl" in second


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_two_users_share_a_directory_of_runs(tmp_path: Path) -> None:
    """The second one can lock the file that the first has made, whatever the first's umask."""
    tmp_path.chmod(0o1777)

    first = _begin(tmp_path, 1001)
    assert first.stdout is not None
    assert first.stdout.readline() == "''\n"
    meanwhile, _ = _begin(tmp_path, 1002).communicate("")
    first.communicate("")
    after, error = _begin(tmp_path, 1002).communicate("")

    assert "process " in meanwhile
    assert (after, error) == ("''\n", "")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_stops_no_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As with the lock of a study."""

    def has_none(*_: object) -> None:
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", has_none)

    with night_lock(tmp_path, "digits", "warm-owl") as holder:
        assert holder == ""
