"""Whether a job is alive, whoever started it: it holds the lock of its run directory."""

import fcntl

from tasks.runtime.run_directory import RunDirectory


def is_alive(directory: RunDirectory) -> bool:
    """Say whether an attempt holds the lock of a run directory.

    The lock goes with its process, however that ends. Asking holds it for an instant, so ask only
    where no job is being started.

    Args:
        directory: The run directory.

    Returns:
        Whether the lock is held; False if there is none yet.

    Raises:
        OSError: The lock file cannot be opened, for another reason than that it is absent.
    """
    try:
        lock = directory.lock.open("rb")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
