"""On which file systems the ledger may lie: what mounts and locks say."""

import errno
import fcntl
from pathlib import Path

import pytest

from tasks.slurm.file_systems import is_on_network, lock_fault, mount_of
from tasks.slurm.leader import Leadership
from tasks.slurm.ledger_file import LedgerError, LedgerFile

ROOT = "/dev/sda1 / ext4 rw 0 0\n"


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("nfs4", "rw,vers=4.2,local_lock=none", ""),
        ("nfs4", "rw,vers=4.2,local_lock=all", "local_lock=all"),
        ("nfs", "rw,vers=3,nolock,local_lock=all", "local_lock=all, nolock"),
        ("nfs", "rw,vers=3,local_lock=flock", "local_lock=flock"),
        ("nfs", "rw,vers=3,local_lock=posix", "local_lock=posix"),
        ("lustre", "rw,flock,lazystatfs", ""),
        ("lustre", "rw,localflock,lazystatfs", "localflock"),
        ("cifs", "rw,nobrl", "nobrl"),
        ("gpfs", "rw,relatime", ""),
        ("ext4", "rw,relatime", ""),
    ],
)
def test_locks_of_one_host_are_known(kind: str, options: str, found: str) -> None:
    """Each option by which a mount grants every host locks of its own."""
    mounts = f"{ROOT}server:/home /home {kind} {options} 0 0\n"

    assert mount_of(Path("/home/ada/.local"), mounts).local_locks == found
    assert mount_of(Path("/var"), mounts).local_locks == ""


def test_a_ledger_without_common_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts would lead there; the message names the mount, the option and what to set."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"{ROOT}mgs@o2ib:/fs {tmp_path} lustre rw,localflock 0 0\n")
    monkeypatch.setattr("tasks.slurm.file_systems._MOUNTS", mounts)

    with pytest.raises(LedgerError, match=r"mounted with localflock: .*set WATERSHED_STATE_DIR"):
        LedgerFile(tmp_path / "state" / "ledger.sqlite")

    assert not (tmp_path / "state" / "ledger.sqlite").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As Lustre that is mounted without flock; a leader that meets it later says what to set."""
    leadership = Leadership(tmp_path / "leader.lock")

    def has_none(*_: object) -> None:
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "flock", has_none)

    assert "has no file locks (No locks available)" in lock_fault(tmp_path, ROOT)
    with pytest.raises(LedgerError, match="set WATERSHED_STATE_DIR"):
        LedgerFile(tmp_path / "ledger.sqlite")
    with pytest.raises(OSError, match="without locks nobody may lead: set WATERSHED_STATE_DIR"):
        leadership.acquire()
    assert not leadership.is_held


@pytest.mark.parametrize(
    ("point", "path"),
    [
        ("/données", "/données/u/.state"),
        ("/data\\040x", "/data x/u"),
        ("/a\\134b", "/a\\b/u"),
        ("/no\u00a0break", "/no\u00a0break/u"),
        ("/line\u2028end", "/line\u2028end/u"),
        ("/latin\udce9", "/latin\udce9/u"),
    ],
)
def test_names_of_mount_points_are_read_as_the_kernel_writes_them(point: str, path: str) -> None:
    """Blanks and backslashes by octal numbers, everything else byte for byte."""
    mounts = f"{ROOT}nas:/v {point} nfs4 rw 0 0\n"

    assert is_on_network(Path(path), mounts)
