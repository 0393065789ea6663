"""Runs the points of a study as jobs: what the flows of all kinds of experiments have in common."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx
from prefect import State, get_run_logger
from prefect.exceptions import Pause, PrefectException, TerminationSignal
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Failed

from configs.study import Study
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.errors import SlurmError
from tasks.slurm.launcher import JobId, Launcher
from tasks.slurm.ledger_file import LedgerError
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.steps.cancelling import Wish, cancelled_by_prefect, state_of
from tasks.steps.creation import create_study_directory
from tasks.steps.ending import (
    final_state,
    needs_no_job,
    pause_in_words,
    termination_in_words,
    wait_for_prefect,
)
from tasks.steps.flow_record import (
    begin_flow_record,
    directory_of,
    read_flow_record,
    write_flow_record,
)
from tasks.steps.following import catch_up, finish, followed
from tasks.steps.launching import copy_code, make_launcher, point_plan
from tasks.steps.links import StudyLink, with_comparison
from tasks.steps.reporting import report_study
from tasks.steps.stale_tasks import close_stale_tasks, has_begun_tasks
from tasks.steps.study_lock import study_lock
from tasks.tracking.damage import damage_of
from tasks.tracking.report import write_report
from tasks.tracking.store import default_tracking_uri
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker

NUM_FOLLOWED = 32
"""Tasks that run at a time. They only show jobs, of which a cluster runs many: what is done for
jobs is done by the launcher, and by a thread for the workers of servers, whoever is shown."""
_PATIENCE_S = 15.0
"""How long the end of a study waits for an MLflow that does not answer."""

Prepare = Callable[[RunDirectory], None]
"""Makes what a point's job needs beside its ``job.json``."""
Arrange = Callable[[Path], None]
"""Decides, in a study's directory, which points need no job."""
Follow = Callable[
    [Study, Path | None, Launcher, Sequence[tuple[RunDirectory, JobId]]],
    Iterator[PrefectFuture[State[str]]],
]
"""Follows points: their study, the copy of the code, the launcher, each run directory and job."""
Stop = KeyboardInterrupt | TerminationSignal | Pause
"""What ends a flow before its jobs have ended."""


def run_points(
    study: Study,
    kind: str,
    follow: Follow,
    *,
    prepare: Prepare | None = None,
    arrange: Arrange | None = None,
    runs_dir: Path,
    study_dir: Path | None,
    num_parallel: int | None,
    points: list[int] | None,
) -> State[str]:
    """Run what has not finished, and report; to be called by a flow.

    A flow run that Prefect runs again (Retry, Resume) goes on in the directory that it has made:
    what has finished stays, jobs that still run are followed, the others continue from their
    checkpoints.

    Args:
        study: The study.
        kind: Kind of the experiments that the flow runs.
        follow: Called for all points once their jobs are submitted.
        prepare: Called for each point before the jobs are submitted.
        arrange: Called for the study's directory before anything else is done in it.
        runs_dir: Where a new study's directory is made.
        study_dir: A directory that was made for this study before; None for that of this flow run,
            or a new one.
        num_parallel: Most local jobs at a time; None for the launcher's default.
        points: Numbers of the points to run, from 0; None for all that have not finished.

    Returns:
        Completed, Failed (some points have; the message names them) or Cancelled.

    Raises:
        Pause: Somebody has paused the flow run in Prefect; its jobs have stopped.
        TerminationSignal: The process is to end; its jobs have stopped, or Slurm keeps them.
    """
    if study.experiment.kind != kind:
        message = (
            f"experiment.kind: this flow runs {kind}, not {study.experiment.kind}; use its own"
        )
        return Failed(message=message, data="")
    flow_run_id = str(flow_run.get_id())
    try:
        known = study_dir or _earlier_directory(flow_run_id, runs_dir)
        if known is None:
            directory = create_study_directory(study, runs_dir, datetime.now().astimezone())
        else:
            directory = StudyDirectory(known)
            study = directory.read_study()
            read_flow_record(known)
    except (DamagedFileError, LookupError) as fault:  # nothing was made
        return Failed(message=str(fault), data="")
    except OSError as error:
        return Failed(message=f"runs_dir: {_unusable(error, runs_dir)}", data="")
    get_run_logger().info("the study's directory is %s", directory.path)
    if known is not None:
        close_stale_tasks(flow_run_id)
    with study_lock(directory.path) as holder:
        if holder:
            return Failed(message=_refusal(directory, holder), data=str(directory.path))
        return _run_held(
            study,
            directory,
            flow_run_id,
            follow=follow,
            prepare=prepare,
            arrange=arrange,
            num_parallel=num_parallel,
            points=points,
        )


def _earlier_directory(flow_run_id: str, runs_dir: Path) -> Path | None:
    """Find the directory that an earlier attempt of this flow run has made; None if none has.

    An attempt may have failed before it made one. One that began tasks had submitted jobs, which
    another directory would run twice.

    Raises:
        LookupError: There must be one, but it is not found, or its record cannot be read; or
            Prefect does not tell.
    """
    try:
        known = directory_of(flow_run_id, runs_dir)
    except DamagedFileError as fault:
        message = f"{fault}, in a new flow run whose study_dir is {fault.path.parent}"
        raise LookupError(message) from fault
    if known is not None or flow_run.get_run_count() <= 1:
        return known
    try:
        if not has_begun_tasks(flow_run_id):
            return None
    except (httpx.HTTPError, PrefectException, OSError) as error:
        message = f"Prefect does not tell whether this flow run has run jobs before: {error}; Retry"
        raise LookupError(message) from error
    raise LookupError(
        f"runs_dir: this flow run has run jobs before, but {runs_dir.absolute()} has no directory "
        "of it, so that they would run twice. If the directory was moved, or another host has it, "
        "start a new flow run there with its study_dir; to compute all anew, one without"
    )


def _unusable(error: OSError, path: Path) -> str:
    """Say what cannot be used, and why."""
    return f"{error.filename or path} cannot be used: {error.strerror or error}"


def _refusal(directory: StudyDirectory, holder: str) -> str:
    path = directory.argument
    return (
        f"{directory.path} is run already by {holder}, which goes on. See how it stands with: "
        f"watershed show {path}. To stop it: watershed cancel {path}; then Retry"
    )


def _run_held(
    study: Study,
    directory: StudyDirectory,
    flow_run_id: str,
    *,
    follow: Follow,
    prepare: Prepare | None,
    arrange: Arrange | None,
    num_parallel: int | None,
    points: list[int] | None,
) -> State[str]:
    """Run what has not finished in a directory that nobody else uses.

    Raises:
        Pause: See ``run_points``.
    """
    logger = get_run_logger()
    tracking_uri = default_tracking_uri(directory.path.parent)
    begin_flow_record(directory.path, flow_run_id, tracking_uri)
    tracker = StudyTracker(directory.path, tracking_uri, flow_run_id=flow_run_id)
    link = StudyLink(directory, tracking_uri)
    wish, stop, fault = Wish(), None, ""
    with followed(tracker, link):
        if arrange is not None:
            arrange(directory.path)
        runs = [run for run in _chosen(directory, points) if not needs_no_job(run)]
        for damaged in filter(None, map(damage_of, directory.points())):
            logger.error("a point is left as it is: %s", damaged)
        if runs:
            try:
                launcher = make_launcher(study, directory, num_parallel)
                with cancelled_by_prefect(flow_run_id, launcher.close) as wish:
                    stop = _run_jobs(study, directory, launcher, runs, follow, prepare)
            except (SlurmError, LedgerError) as error:
                fault = str(error)
            except OSError as error:  # a full disk, say
                fault = _unusable(error, directory.path)
    if stop is not None:
        wish.note(state_of(flow_run_id))
    if stop is None:
        catch_up(tracker)
    if wish.is_pause:
        write_report(directory.path, tracking_uri=tracking_uri)  # a task would not start any more
    else:
        report_study(directory.path, tracking_uri)
    _finish_tracking(directory, tracker, tracking_uri, patience_s=0.0 if stop else _PATIENCE_S)
    if wish.is_pause:
        logger.info(pause_in_words(directory, wish))
        raise Pause(state=wish.state)
    if isinstance(stop, TerminationSignal):
        is_cancelled = wish.is_cancel or _is_cancelled()
        logger.info(termination_in_words(study, directory, is_cancelled=is_cancelled))
        raise stop
    link.finish()
    wait_for_prefect(flow_run_id, logger)
    if fault:
        return Failed(message=f"{fault}; then Retry", data=str(directory.path))
    return final_state(directory)


def _finish_tracking(
    directory: StudyDirectory, tracker: StudyTracker, tracking_uri: str, *, patience_s: float
) -> None:
    sent = finish(tracker, patience_s)
    record = with_comparison(directory, tracking_uri)
    if record is None:
        record = begin_flow_record(directory.path, str(flow_run.get_id()), tracking_uri)
    if sent.error:
        get_run_logger().warning(
            "MLflow has not got everything: %s. The runs are complete on disk; send the rest with: "
            "watershed resume %s",
            sent.error,
            directory.argument,
        )
    update = {"tracking_error": sent.error or ""}
    write_flow_record(directory.path, record.model_copy(update=update))


def _chosen(directory: StudyDirectory, points: list[int] | None) -> list[RunDirectory]:
    runs = directory.points()
    return runs if points is None else [runs[number] for number in dict.fromkeys(points)]


def _run_jobs(
    study: Study,
    directory: StudyDirectory,
    launcher: Launcher,
    runs: Sequence[RunDirectory],
    follow: Follow,
    prepare: Prepare | None,
) -> Stop | None:
    """Run jobs to their ends; return what has come before, if anything has."""
    futures: list[PrefectFuture[State[str]]] = []
    stop: Stop | None = None
    try:
        code_dir = copy_code(study, directory)
        plans = [point_plan(study, run.read_job(), run, code_dir) for run in runs]
        if prepare is not None:
            for run in runs:
                prepare(run)
        jobs = list(zip(runs, launcher.submit_all(plans), strict=True))
        for future in follow(study, code_dir, launcher, jobs):
            futures.append(future)  # at once: each is waited for, whatever comes between
        for future in futures:
            future.wait()
    except (KeyboardInterrupt, TerminationSignal, Pause) as signal:
        stop = signal
    finally:
        _release(launcher, stop)
    for future in futures:
        try:
            future.wait()
        except Pause as signal:  # the task has ended, or never began
            stop = stop or signal
    return stop


def _release(launcher: Launcher, stop: Stop | None) -> None:
    """Stop the jobs; but Slurm keeps them if this process is to end and nobody has cancelled.

    A worker that shuts down, or Slurm that needs the node of a flow, sends SIGTERM too.
    """
    is_ended = isinstance(stop, TerminationSignal)
    if is_ended and isinstance(launcher, SlurmLauncher) and not _is_cancelled():
        launcher.detach()
    else:
        launcher.close()


def _is_cancelled() -> bool:
    """Whether somebody has cancelled this flow run, or the one that it is a part of."""
    asked = {flow_run.get_id()}
    with suppress(httpx.HTTPError, PrefectException, OSError):  # Prefect does not answer
        asked.add(flow_run.get_root_flow_run_id())
    wish = Wish()
    return any(wish.note(state_of(str(one))) and wish.is_cancel for one in asked)
