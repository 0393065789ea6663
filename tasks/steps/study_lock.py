"""The lock of a study's directory: one flow at a time, whoever started it.

It is a file lock, so it goes with its process, however that ends. Two hosts exclude each other
where the file system has locks for all of them.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.file_systems import has_no_locks

_ASKED_S = 1.0
"""Others hold the lock for an instant when they ask who holds it, see ``signs.is_locked``."""
_POLL_S = 0.05


@contextmanager
def study_lock(study_dir: Path) -> Iterator[str]:
    """Hold the lock of a study's directory, if no other process does.

    A process that holds it already, as the one that the command line starts, may ask again.

    Args:
        study_dir: The study's directory.

    Yields:
        Who else holds it, in words; empty if this process does now.

    Raises:
        OSError: The lock file cannot be used.
    """
    path = RunDirectory(study_dir).lock
    own = f"{socket.gethostname()} {os.getpid()}"
    with path.open("a+", encoding="utf-8") as lock:
        if not _is_taken(lock):
            lock.seek(0)
            holder = lock.read().strip()
            yield "" if holder == own else _in_words(holder)
            return
        lock.truncate(0)
        lock.write(f"{own}\n")
        lock.flush()
        yield ""


def _is_taken(lock: IO[str]) -> bool:
    """Take the lock; return whether it was had, or whether the file system has no locks.

    Raises:
        OSError: It cannot be asked for.
    """
    deadline = time.monotonic() + _ASKED_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        except OSError as error:
            if not has_no_locks(error):
                raise
            return True
        else:
            return True


def _in_words(holder: str) -> str:
    host, _, pid = holder.partition(" ")
    return f"process {pid} on {host}" if pid else "another process, which has not told its name"
