"""How a flow run ends: what is said of its study, in Prefect's terms, and to whom."""

import time
from collections.abc import Sequence
from datetime import datetime

from prefect import State
from prefect.runtime import deployment
from prefect.states import Cancelled, Completed, Failed

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.redaction import redact
from tasks.steps.cancelling import Wish, state_of
from tasks.steps.story import Logger
from tasks.tracking.damage import damage_of, label_of_run, standing
from tasks.tracking.history import GOOD
from tasks.tracking.study_directory import StudyDirectory

_PATIENCE_S = 600.0
_POLL_S = 5.0
_MOST_NAMED = 10
"""Failed points in the message of a state."""


def needs_no_job(run: RunDirectory) -> bool:
    """Say whether a point is to have no job: it has finished, or whether it has cannot be read.

    Args:
        run: Its run directory.
    """
    return standing(run) in GOOD | {"damaged"}


def final_state(directory: StudyDirectory) -> State[str]:
    """Return how a study stands when its flow has nothing more to do.

    Args:
        directory: The study's directory.

    Returns:
        Completed, Failed (some points have; the message names them) or Cancelled.
    """
    runs, path = directory.points(), str(directory.path)
    failed = [told for run in runs if (told := _failure(run))]
    if failed:
        told = redact("; ".join(failed[:_MOST_NAMED]))
        if len(failed) > _MOST_NAMED:
            told += f"; {len(failed) - _MOST_NAMED} more, see the report"
        return Failed(message=f"{len(failed)} of {len(runs)} points failed. {told}", data=path)
    unfinished = [run for run in runs if not needs_no_job(run)]
    if unfinished:
        message = f"stopped with {len(unfinished)} of {len(runs)} points to go"
        return Cancelled(message=message, data=path)
    return Completed(message=_how_many(runs), data=path)


def _failure(run: RunDirectory) -> str:
    """Say why a point has failed, or cannot be read; empty if neither."""
    if fault := damage_of(run):
        return f"{label_of_run(run)}: {fault}"
    result = run.read_result()
    if result is None or result.status != "failed":
        return ""
    return f"{label_of_run(run)}: {result.message}"


def _how_many(runs: Sequence[RunDirectory]) -> str:
    """Say how many points have finished, and how: ``12 points finished, 4 of them reused``."""
    predicted = sum(run.predicted_only.exists() for run in runs)
    reused = sum(run.reused.exists() for run in runs)
    told = f"{len(runs) - predicted} points finished"
    told += f", {reused} of them reused" if reused else ""
    return told + (f", {predicted} predicted only" if predicted else "")


def pause_in_words(directory: StudyDirectory, wish: Wish) -> str:
    """Say what a pause has done, and how the study goes on.

    Args:
        directory: The study's directory.
        wish: The pause.
    """
    done = "paused in Prefect: the jobs have saved their state and stopped"
    if not deployment.get_id():
        return (
            f"{done}; this flow run has no deployment, so Resume cannot start it again, "
            f"continue with: watershed resume {directory.argument}"
        )
    until = wish.state.state_details.pause_timeout if wish.state is not None else None
    if until is None:
        return f"{done}; Resume continues from their checkpoints"
    at = datetime.fromtimestamp(until.timestamp()).astimezone()
    return (
        f"{done}; Resume continues from their checkpoints until {at:%Y-%m-%d %H:%M:%S %Z}, then "
        "Prefect calls the flow run failed, and Retry does the same"
    )


def termination_in_words(study: Study, directory: StudyDirectory, *, is_cancelled: bool) -> str:
    """Say what an end from outside (SIGTERM) has done to the jobs, and how the study goes on.

    Args:
        study: The study.
        directory: Its directory.
        is_cancelled: Whether somebody has cancelled the flow run.
    """
    if is_cancelled:
        return "cancelled: the jobs have saved their state and stopped; Retry continues from there"
    path = directory.argument
    if isinstance(study.launcher, SlurmLauncherConfig):
        return (
            "this process was ended from outside (SIGTERM), which is no wish to cancel: the jobs "
            f"of Slurm go on. Retry, or watershed resume {path}, follows them; watershed cancel "
            f"{path} stops them"
        )
    return (
        "this process was ended from outside (SIGTERM): the jobs on this machine have saved their "
        f"state and stopped. Retry, or watershed resume {path}, continues from there"
    )


def wait_for_prefect(flow_run_id: str, logger: Logger, patience_s: float = _PATIENCE_S) -> None:
    """Wait until Prefect can be told how a flow run has ended.

    Args:
        flow_run_id: Prefect's id of it.
        logger: Its log.
        patience_s: How long, at most.
    """
    deadline = time.monotonic() + patience_s
    is_told = False
    while state_of(flow_run_id) is None and time.monotonic() < deadline:
        if not is_told:
            is_told = True
            logger.warning(
                "the study is over and its files are whole, but Prefect's server does not answer; "
                "waiting up to %.0f minutes to tell it",
                patience_s / 60,
            )
        time.sleep(_POLL_S)
