"""Tells in Prefect how a point's job fares: where it is, how far it is, and why it failed."""

import logging
import time
from typing import Any

from prefect import State
from prefect.states import Failed

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.explaining import explain, in_markdown, in_short
from tasks.slurm.launcher import JobId, JobState, Launcher
from tasks.slurm.ledger_file import LedgerError
from tasks.steps.artifacts import SHOWN
from tasks.steps.links import point_address
from tasks.steps.progress import PointProgress, PointReader
from tasks.steps.reporting import artifact_key
from tasks.tracking.study_directory import StudyDirectory

Logger = logging.Logger | logging.LoggerAdapter[Any]
_POLL_S = 2.0
_QUIET_S = 30.0
"""Longest silence in the log while steps are done."""


class JobTeller:
    """Logs where a job is, whenever that changes.

    Args:
        launcher: Where it runs.
        job: The job.
        logger: The log.
        name: Said before it, where several jobs are told of in one log.
    """

    def __init__(self, launcher: Launcher, job: JobId, logger: Logger, name: str = "") -> None:
        self._launcher, self._job, self._logger = launcher, job, logger
        self._prefix = f"{name}: " if name else ""
        self._told = ""

    def tell(self) -> None:
        """Log where the job is, if that is news."""
        words = self._launcher.describe(self._job)
        if words and words != self._told:
            self._told = words
            self._logger.info("%s%s", self._prefix, words)


def follow(
    label: str, directory: RunDirectory, launcher: Launcher, job: JobId, logger: Logger
) -> JobState:
    """Wait for a point's job, and show where and how far it is.

    Args:
        label: What varies at the point.
        directory: Its run directory.
        launcher: Where the job runs.
        job: The job.
        logger: The log of the point's task.

    Returns:
        The job's final state.

    Raises:
        OSError: A file of the run cannot be read.
        DamagedFileError: ``job.json`` is cut off, or of another version.
    """
    teller = JobTeller(launcher, job, logger)
    reader = PointReader(directory)
    shown = reader.read()
    artifact = SHOWN.progress(_share(shown), shown.told)
    is_linked = False
    logged_s = time.monotonic()
    while True:
        teller.tell()
        state = launcher.wait(job, _POLL_S)  # before the reading, so that nothing comes later
        is_linked = is_linked or _link(label, directory)
        point = reader.read()
        if point != shown:
            artifact = SHOWN.more(artifact, _share(point), point.told)
            if state.is_final or time.monotonic() - logged_s >= _QUIET_S:
                logged_s = time.monotonic()
                logger.info(point.told)
            shown = point
        if state.is_final:
            break
    teller.tell()
    key = artifact_key(f"{directory.read_job().study} {directory.path.name}")
    SHOWN.table(numbers_of(shown), f"How {label} ended", key)
    return state


def numbers_of(point: PointProgress) -> list[dict[str, object]]:
    """Return the newest numbers of a point, one a row of a table; unknown ones are left out.

    Args:
        point: The point.
    """
    numbers = {
        f"{point.unit}s": point.step,
        "loss": point.loss,
        "accuracy": point.accuracy,
        "tokens per second": point.tokens_per_s,
        "TFLOPS per device": point.tflops,
    }
    return [{"what": what, "value": value} for what, value in numbers.items() if value is not None]


def failure_shown(directory: RunDirectory, logger: Logger) -> State[str]:
    """Explain a failed point: in one line in its state, as a whole in its log and an artifact.

    Args:
        directory: Its run directory.
        logger: The log of the point's task.

    Returns:
        The failed state.
    """
    run = RunDirectory(directory.path.resolve())
    try:
        explained = explain(run)
        result = run.read_result()
        job = run.read_job()
    except (LedgerError, OSError, DamagedFileError) as error:
        message = f"it cannot be explained ({error}); see {run.stdout}"
        return Failed(message=message, data=JobState.FAILED.value)
    study = StudyDirectory(run.path.parent.parent).argument
    again = (
        f"Run it again with **Retry** of the flow run, or `watershed retry {study}`; "
        f"`watershed why {study}` explains it in a terminal."
    )
    text = in_markdown(explained, again)
    logger.error(text)
    SHOWN.markdown(
        text, f"Why {explained.label} failed", artifact_key(f"why {job.study} {run.path.name}")
    )
    return Failed(message=in_short(explained, result), data=JobState.FAILED.value)


def _link(label: str, directory: RunDirectory) -> bool:
    """Show where MLflow has the point; return whether it was shown."""
    address = point_address(directory)
    return bool(address) and SHOWN.link(address, f"{label} in MLflow", "Its curves in MLflow")


def _share(point: PointProgress) -> float:
    """Per cent that is done; of one that was stopped, what it has done."""
    return 100.0 if point.state == "finished" else 100.0 * point.step / max(1, point.num_steps)
