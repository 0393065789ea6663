"""Steps of a grid point: wait for its job, and say how it ended."""

from collections.abc import Sequence
from pathlib import Path

from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED
from tasks.slurm.launcher import JobId, JobState, Launcher
from tasks.steps.story import failure_shown, follow

_STILL = "not known to have stopped: it may go on in Slurm; end it with: watershed cancel"


@task(task_run_name="{label}", cache_policy=NO_CACHE)
def run_point(
    label: str,
    run_dir: Path,
    launcher: Launcher,
    job: JobId,
) -> State[str]:
    """Wait for the job of one grid point, and tell how it fares.

    The log has the job's id, where it is and why it waits; artifacts have how far it is, its run in
    MLflow, and why it failed.

    Args:
        label: What varies at the point; the task run is named so.
        run_dir: The run directory, with ``job.json``.
        launcher: Where it was submitted.
        job: Its id there.

    Returns:
        The task's state, whose data is how the job ended; a failed one says why.
    """
    directory = RunDirectory(run_dir)
    logger = get_run_logger()
    state = follow(label, directory, launcher, job, logger)
    if state is JobState.FAILED:
        return failure_shown(directory, logger)
    return ended(directory, state)


def ended(directory: RunDirectory, state: JobState) -> State[str]:
    """Put the end of a point's job into Prefect's terms; of a failure without its story.

    Args:
        directory: Its run directory.
        state: How its job has ended, for the launcher.

    Returns:
        A state whose data is how the job ended; a failed one says why.
    """
    result = directory.read_result()
    message = last_word(directory, state)
    if state is JobState.FINISHED:
        unit = directory.read_job().experiment.unit
        return Completed(message=f"{result.steps} {unit}s" if result else None, data=state.value)
    if state is JobState.INTERRUPTED:
        return Cancelled(message=message, data=state.value)
    return Failed(message=message or f"see {directory.stdout}", data=state.value)


def last_word(directory: RunDirectory, state: JobState) -> str:
    """Say why a point is not finished.

    Args:
        directory: Its run directory.
        state: How its job has ended, for the launcher.

    Returns:
        The result's message; if only an earlier attempt has left a result, what is known without.
    """
    result, attempts = directory.read_result(), directory.attempts()
    if result and result.status == state.value and not _is_older(directory.result, attempts):
        return result.message
    if state is not JobState.INTERRUPTED:
        return ""
    return _STILL if attempts else "not started"


def _is_older(path: Path, attempts: Sequence[Path]) -> bool:
    """Whether a file was written before the newest attempt began."""
    try:
        return bool(attempts) and path.stat().st_mtime < (attempts[-1] / STARTED).stat().st_mtime
    except OSError:
        return False
