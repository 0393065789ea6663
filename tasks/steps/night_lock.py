"""One night of a study at a time, whoever started it: a file lock in the directory of the runs."""

import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def night_lock(runs_dir: Path, study: str, flow_run: str) -> Iterator[str]:
    """Hold the lock of a study's nights, if nobody else does.

    It goes with its process, however that ends. Two hosts exclude each other where the file system
    has locks for all of them.

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
    with (runs_dir / f".nightly-{study}.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            yield lock.read().strip() or "another process, which has not told its name"
            return
        lock.truncate(0)
        lock.write(
            f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}, flow run "
            f"{flow_run}, since {datetime.now().astimezone():%Y-%m-%d %H:%M}\n"
        )
        lock.flush()
        yield ""
