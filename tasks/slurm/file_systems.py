"""What file system a directory is on, and whether its locks hold between hosts.

The ledger (POSIX locks) and the leader (flock) rest on locks. Some mounts grant each host its own:
NFS with ``nolock`` or ``local_lock``, Lustre with ``localflock``, SMB with ``nobrl``. There two
hosts would lead at the same time, and write over each other's pages of the ledger.
"""

import errno
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/mounts")
_LOCAL_FILE_SYSTEMS = {
    "apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs",
}  # fmt: skip
_LOCAL_LOCKS = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"},
    "lustre": {"localflock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_ESCAPED = re.compile(r"\\([0-7]{3})")
_PROBE = ".locks"


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Attributes:
        kind: Its type, as the kernel names it; empty if it is not known.
        options: As they are in force.
        point: Where it is mounted.
    """

    kind: str = ""
    options: frozenset[str] = frozenset()
    point: str = "/"

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may share it: it is none that is known to be local."""
        return self.kind not in _LOCAL_FILE_SYSTEMS

    @property
    def local_locks(self) -> str:
        """The option that keeps locks to each host; empty if there is none."""
        return ", ".join(sorted(self.options & _LOCAL_LOCKS.get(self.kind, set())))


def mount_of(path: Path, mounts: str) -> Mount:
    """Return what a directory is on.

    Args:
        path: The directory, absolute.
        mounts: The text of ``/proc/mounts``; undecodable bytes as surrogates.

    Returns:
        The mount of the longest matching mount point; the last one, if several are on top of each
        other.
    """
    best = Mount(point="")
    for line in mounts.split("\n"):
        fields = line.split(" ")
        if len(fields) < 4:  # device, mount point, type, options
            continue
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[1])  # a space is \040
        if path.is_relative_to(point) and len(point) >= len(best.point):
            best = Mount(fields[2], frozenset(fields[3].split(",")), point)
    return best


def read_mounts() -> str:
    """Return the text of ``/proc/mounts``; empty where there is none."""
    try:
        return os.fsdecode(_MOUNTS.read_bytes())
    except OSError:  # not Linux
        return ""


def is_on_network(path: Path, mounts: str) -> bool:
    """Say whether a directory is on a file system that several hosts share.

    Args:
        path: The directory.
        mounts: The text of ``/proc/mounts``.

    Returns:
        Whether the file system of the longest matching mount point is none that is known to be
        local; False if there is no such text.
    """
    return bool(mounts) and mount_of(path, mounts).is_shared


def lock_fault(directory: Path, mounts: str) -> str:
    """Say why locks in a directory would not do.

    Args:
        directory: The directory, absolute and without links; it exists.
        mounts: The text of ``/proc/mounts``.

    Returns:
        What was found; empty if nothing speaks against it.

    Raises:
        OSError: No file can be made there.
    """
    mount = mount_of(directory, mounts)
    if option := mount.local_locks:
        return (
            f"{directory} is on {mount.point}, which is mounted with {option}: each host has locks "
            "of its own there, so that two hosts would submit the same jobs"
        )
    probe = os.open(directory / _PROBE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if has_no_locks(error):
            return f"{directory} is on {mount.point}, which has no file locks ({error.strerror})"
        raise
    finally:
        os.close(probe)
    return ""


def has_no_locks(error: OSError) -> bool:
    """Say whether a lock was refused because the file system has none."""
    return error.errno in _NO_LOCKS
