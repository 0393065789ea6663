"""One night of a study at a time."""

import errno
import fcntl
import os
import stat
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


def _refused(runs_dir: Path) -> str:
    with pytest.raises(OSError, match=r"\.nightly-digits\.lock") as caught:  # noqa: SIM117
        with night_lock(runs_dir, "digits", "warm-owl"):
            pass
    return str(caught.value.strerror)


def test_a_planted_link_is_neither_followed_nor_made_a_file(tmp_path: Path) -> None:
    """Neither one to a private file, nor one to a place where no file is yet."""
    runs_dir, private, absent = tmp_path / "runs", tmp_path / "private", tmp_path / "absent"
    runs_dir.mkdir()
    private.write_text("precious")
    lock = runs_dir / ".nightly-digits.lock"

    told = []
    for target in (private, absent):
        lock.symlink_to(target)
        told.append(_refused(runs_dir))
        lock.unlink()

    assert told == ["it is a link"] * 2
    assert private.read_text() == "precious"
    assert not absent.exists()


def test_a_second_name_of_a_private_file_is_not_written(tmp_path: Path) -> None:
    """As where the kernel lets anybody link any file; nor is it read out."""
    private = tmp_path / "private"
    private.write_text("precious")
    (tmp_path / ".nightly-digits.lock").hardlink_to(private)

    assert _refused(tmp_path) == "it is a link to another file"
    assert private.read_text() == "precious"


def test_a_planted_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Opening one for reading would wait for a writer for ever."""
    os.mkfifo(tmp_path / ".nightly-digits.lock")

    assert _refused(tmp_path) == "it is no regular file"


@pytest.mark.parametrize(
    ("directory", "file"), [(0o700, 0o600), (0o775, 0o660), (0o1777, 0o664), (0o1757, 0o644)]
)
def test_who_may_write_into_the_directory_may_use_the_lock(
    tmp_path: Path, directory: int, file: int
) -> None:
    """Its group by writing, which NFS wants for a lock, others by reading: nobody else writes."""
    tmp_path.chmod(directory)

    with night_lock(tmp_path, "digits", "warm-owl"):
        pass

    assert stat.S_IMODE((tmp_path / ".nightly-digits.lock").stat().st_mode) == file


def test_the_holders_words_command_no_terminal(tmp_path: Path) -> None:
    """They are anybody's: control characters are blanks, and there is no second line."""
    path = tmp_path / ".nightly-digits.lock"
    with night_lock(tmp_path, "digits", "warm-owl"):
        path.write_text("a friend\x1b]0;owned\x07\n\x1b[2J gone" + "x" * 5000)
        with night_lock(tmp_path, "digits", "cold-owl") as holder:
            pass

    assert holder.startswith("a friend ]0;owned [2J gone")
    assert holder.isprintable()
    assert len(holder) <= 400


def test_a_file_that_may_only_be_read_on_nfs_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a lock needs a file that may be written."""

    def wants_writing(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", wants_writing)

    assert _refused(tmp_path) == "on NFS only who may write it can lock it"
