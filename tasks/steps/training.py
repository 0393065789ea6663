"""The step of a training: wait for its job, and show how far it is while it runs."""

import time
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import State, get_run_logger, task
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.steps.points import ended
from tasks.steps.progress import PointProgress, PointReader, share_done
from tasks.steps.reporting import artifact_key

_POLL_S = 2.0
_QUIET_S = 30.0
"""Longest silence in the log while train steps are done."""


@task(task_run_name="{label}", cache_policy=NO_CACHE)
def run_training(
    label: str,
    run_dir: Path,
    launcher: Launcher,
    job: JobId,
) -> State[str]:
    """Wait for a training, with its progress and newest numbers in an artifact and in the log.

    Args:
        label: What varies at the point; the task run is named so.
        run_dir: The run directory, with ``job.json``.
        launcher: Where it was submitted.
        job: Its id there.

    Returns:
        The task's state, whose data is how the job ended; a failed one says why.
    """
    logger = get_run_logger()
    directory = RunDirectory(run_dir)
    reader = PointReader(directory)
    shown = reader.read()
    # A coroutine it is only where an event loop runs, which is not in a thread of a task.
    artifact = cast("UUID", create_progress_artifact(_share(shown), description=shown.told))
    logged_s = time.monotonic()
    while True:
        state = launcher.wait(job, _POLL_S)  # before the reading, so that nothing comes later
        point = reader.read()
        if point != shown:
            update_progress_artifact(artifact, _share(point), description=point.told)
            if state.is_final or time.monotonic() - logged_s >= _QUIET_S:
                logged_s = time.monotonic()
                logger.info(point.told)
            shown = point
        if state.is_final:
            break
    key = artifact_key(f"{directory.read_job().study} {directory.path.name}")
    create_table_artifact(table=numbers_of(shown), key=key, description=f"How {label} ended")
    return ended(directory, state)


def numbers_of(point: PointProgress) -> list[dict[str, object]]:
    """Return the newest numbers of a training, one a row of a table; unknown ones are left out.

    Args:
        point: The training.
    """
    numbers = {
        "train steps": point.step,
        "loss": point.loss,
        "tokens per second": point.tokens_per_s,
        "TFLOPS per device": point.tflops,
    }
    return [{"what": what, "value": value} for what, value in numbers.items() if value is not None]


def _share(point: PointProgress) -> float:
    """Per cent that is done."""
    return 100.0 * share_done([point])
