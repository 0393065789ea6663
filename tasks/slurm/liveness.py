"""Whether a run is alive, whoever started it."""

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import is_beating, is_locked


def is_alive(directory: RunDirectory) -> bool:
    """Say whether a process on this machine, or a job of Slurm, is at work on a run.

    The former holds the run's lock, which goes with the process, however that ends. The latter has
    a fresh heartbeat; for a minute after its node has died it still seems to be alive. Asking holds
    the lock for an instant, so ask only where no job is being started.

    Args:
        directory: The run directory.

    Returns:
        Whether one is.

    Raises:
        OSError: The run's files cannot be looked at, for another reason than that they are absent.
    """
    return is_locked(directory) or is_beating(directory)
