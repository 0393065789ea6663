"""One night of a study at a time, whoever started it: a file lock in the directory of the runs."""

import contextlib
import errno
import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import FileIO
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_LONGEST_NAME = 4096


@contextmanager
def night_lock(runs_dir: Path, study: str, flow_run: str) -> Iterator[str]:
    """Hold the lock of a study's nights, if nobody else does.

    It goes with its process, however that ends. Two hosts exclude each other where the file system
    has locks for all of them; where it has none, nobody is excluded. So do two users who share the
    directory: whoever made the file lets all others lock it.

    Args:
        runs_dir: Directory of all runs; made if absent.
        study: Name of the study.
        flow_run: Name of the flow run that wants it, for the others to see.

    Yields:
        Who holds it, in words; empty if the caller does now.

    Raises:
        OSError: The file cannot be opened.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    with _opened(runs_dir / f".nightly-{study}.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield os.pread(lock.fileno(), _LONGEST_NAME, 0).decode(errors="replace").strip() or (
                "another process, which has not told its name"
            )
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        with contextlib.suppress(OSError):  # a file that only another user may write
            _tell(lock, flow_run)
        yield ""


def _opened(path: Path) -> FileIO:
    """Open a lock file for whoever asks; made if absent.

    Where everybody may write to a directory, the kernel lets nobody create what is there already
    and another one's (``fs.protected_regular``), so it is opened without that first.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        return _open(path, os.O_RDWR)
    except FileNotFoundError:
        file = _open(path, os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(OSError):  # another one's, made in this instant
            os.fchmod(file.fileno(), 0o666)
        return file
    except PermissionError:
        return _open(path, os.O_RDONLY)  # enough for a lock, but on NFS


def _open(path: Path, flags: int) -> FileIO:
    mode = "r+" if flags & os.O_RDWR else "r"
    return FileIO(os.open(path, flags | os.O_CLOEXEC, 0o666), mode)


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
