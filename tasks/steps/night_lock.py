"""One night of a study at a time, whoever started it: a file lock in the directory of the runs."""

import contextlib
import errno
import fcntl
import getpass
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import FileIO
from pathlib import Path

from tasks.runtime.plain_text import plain
from tasks.slurm.file_systems import has_no_locks

_LONGEST_NAME = 400
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Of every open: no link is followed, and nobody's named pipe is waited for."""
_PATIENCE_S = (0.0, 0.05, 0.2, 0.5)
"""Waits before each try, for who makes or removes the file in that instant."""


@contextmanager
def night_lock(runs_dir: Path, study: str, flow_run: str) -> Iterator[str]:
    """Hold the lock of a study's nights, if nobody else does.

    It goes with its process, however that ends. Two hosts exclude each other where the file system
    has locks for all of them; where it has none, nobody is excluded. So do two users who share the
    directory: who may write into it by its group may write the file, who may as anybody may read
    it, which is enough for a lock but on NFS. What another user may have planted under the
    name, a link or a pipe, is neither followed nor written.

    Args:
        runs_dir: Directory of all runs; made if absent.
        study: Name of the study.
        flow_run: Name of the flow run that wants it, for the others to see.

    Yields:
        Who holds it, in words; empty if the caller does now.

    Raises:
        OSError: The file cannot be used; the error names it, and says why.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    path = runs_dir / f".nightly-{study}.lock"
    with _opened(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _told(lock) or "another process, which has not told its name"
            return
        except OSError as error:
            if error.errno == errno.EBADF:  # NFS, and a file that we may only read
                why = "on NFS only who may write it can lock it"
                raise OSError(error.errno, why, str(path)) from error
            if not has_no_locks(error):
                raise
        with contextlib.suppress(OSError):  # a file that may only be read, a full disk
            _tell(lock, flow_run)
        yield ""


def _opened(path: Path) -> FileIO:
    """Open a lock file for whoever asks; made if absent.

    Raises:
        PermissionError: It is closed to us.
        OSError: It cannot be opened, or is no file of its own.
    """
    for wait_s in _PATIENCE_S:
        time.sleep(wait_s)
        try:
            return _existing(path)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another one's, made in this instant
                return _made(path)
        except PermissionError:  # or not yet: see ``_made``
            if wait_s == _PATIENCE_S[-1]:
                raise
    raise OSError(errno.EAGAIN, "it comes and goes", str(path))


def _existing(path: Path) -> FileIO:
    """Open a file that is there; for reading if that is all that is allowed.

    Raises:
        FileNotFoundError: It is not, or not any more.
        OSError: It cannot be opened, or is a link or no file.
    """
    try:
        file = _open(path, os.O_RDWR)
    except PermissionError:
        file = _open(path, os.O_RDONLY)
    try:
        _check(file, path)
    except OSError:
        file.close()
        raise
    return file


def _check(file: FileIO, path: Path) -> None:
    """Refuse a file that has another name, too: it could be any file of ours.

    Its only name is asked for at once with what it is, so that no moment between the two is left.

    Raises:
        FileNotFoundError: The file is gone, or another one.
        OSError: It is no file, or has several names.
    """
    named, found = path.lstat(), os.fstat(file.fileno())
    if not os.path.samestat(named, found):
        raise FileNotFoundError(errno.ENOENT, "it has been replaced", str(path))
    if not stat.S_ISREG(named.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if named.st_nlink != 1:
        raise OSError(errno.EMLINK, "it is a link to another file", str(path))


def _made(path: Path) -> FileIO:
    """Make the file, for those who may make files beside it.

    Raises:
        FileExistsError: Somebody else has.
        OSError: It cannot be made.
    """
    file = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    around, mode = path.parent.stat(), 0o600
    with contextlib.suppress(OSError):  # a group that we are not in
        os.fchown(file.fileno(), -1, around.st_gid)
        mode |= 0o060 if around.st_mode & stat.S_IWGRP else 0
    mode |= 0o044 if around.st_mode & stat.S_IWOTH else 0
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(file.fileno(), mode)
    return file


def _open(path: Path, flags: int) -> FileIO:
    mode = "r+" if flags & os.O_RDWR else "r"
    try:
        return FileIO(os.open(path, flags | _SAFELY, 0o600), mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "it is a link"
        raise


def _told(lock: FileIO) -> str:
    """Return the name that the holder has told, as it may be shown."""
    text = os.pread(lock.fileno(), _LONGEST_NAME, 0).decode(errors="replace")
    return " ".join(plain(text).split())


def _tell(lock: FileIO, flow_run: str) -> None:
    text = (
        f"process {os.getpid()} of {_user()} on {socket.gethostname()}, flow run "
        f"{flow_run}, since {datetime.now().astimezone():%Y-%m-%d %H:%M}\n"
    )
    os.ftruncate(lock.fileno(), 0)
    os.pwrite(lock.fileno(), text.encode(), 0)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody here knows its name
        return f"user {os.getuid()}"
