"""Runs the points of a study as jobs: what the flows of all kinds of experiments have in common."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from prefect import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from configs.study import Study
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.steps.cancelling import cancelled_by_prefect
from tasks.steps.creation import create_study_directory
from tasks.steps.flow_record import FlowRecord, write_flow_record
from tasks.steps.following import comparison_address, followed
from tasks.steps.launching import copy_code, launch_faults, make_launcher, point_plan
from tasks.steps.reporting import report_study
from tasks.tracking.history import GOOD, read_state
from tasks.tracking.store import default_tracking_uri
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker

_PATIENCE_S = 15.0
"""How long the end of a study waits for an MLflow that does not answer."""

Prepare = Callable[[RunDirectory], None]
"""Makes what a point's job needs beside its ``job.json``."""
Arrange = Callable[[Path], None]
"""Decides, in a study's directory, which points need no job."""
Follow = Callable[
    [Study, RunDirectory, Path | None, Launcher, JobId], list[PrefectFuture[State[str]]]
]
"""Follows a point: its study, its run directory, the copy of the code, the launcher, the job."""


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

    Args:
        study: The study.
        kind: Kind of the experiments that the flow runs.
        follow: Called for each point once its job is submitted.
        prepare: Called for each point before the jobs are submitted.
        arrange: Called for the study's directory before anything else is done in it.
        runs_dir: Where a new study's directory is made.
        study_dir: A directory that was made for this study before; None for a new one.
        num_parallel: Most local jobs at a time; None for the launcher's default.
        points: Numbers of the points to run, from 0; None for all that have not finished.

    Returns:
        Completed, Failed (some points have; the message names them) or Cancelled.
    """
    if study.experiment.kind != kind:
        message = (
            f"experiment.kind: this flow runs {kind}, not {study.experiment.kind}; use its own"
        )
        return Failed(message=message, data="")
    faults = launch_faults(study)
    if faults:
        return Failed(message="; ".join(map(str, faults)), data="")
    if study_dir is None:
        directory = create_study_directory(study, runs_dir, datetime.now().astimezone())
    else:
        directory = StudyDirectory(study_dir)
    tracking_uri = default_tracking_uri(directory.path.parent)
    record = FlowRecord(flow_run_id=str(flow_run.get_id()), tracking_uri=tracking_uri)
    write_flow_record(directory.path, record)
    tracker = StudyTracker(directory.path, tracking_uri, flow_run_id=record.flow_run_id)
    was_interrupted = False
    with followed(tracker):
        if arrange is not None:
            arrange(directory.path)
        runs = [run for run in _chosen(directory, points) if not _needs_no_job(run)]
        if runs:
            launcher = make_launcher(study, directory, num_parallel)
            with cancelled_by_prefect(record.flow_run_id, launcher.close):
                was_interrupted = _run_jobs(study, directory, launcher, runs, follow, prepare)
    report_study(directory.path, tracking_uri)
    sent = tracker.close(0.0 if was_interrupted else _PATIENCE_S)
    write_flow_record(
        directory.path,
        record.model_copy(
            update={
                "comparison": comparison_address(directory, tracking_uri),
                "tracking_error": sent.error or "",
            }
        ),
    )
    return _final_state(directory)


def _chosen(directory: StudyDirectory, points: list[int] | None) -> list[RunDirectory]:
    runs = directory.points()
    return runs if points is None else [runs[number] for number in points]


def _run_jobs(
    study: Study,
    directory: StudyDirectory,
    launcher: Launcher,
    runs: Sequence[RunDirectory],
    follow: Follow,
    prepare: Prepare | None,
) -> bool:
    """Run jobs to their ends; return whether Ctrl-C came before."""
    futures: list[PrefectFuture[State[str]]] = []
    was_interrupted = False
    try:
        code_dir = copy_code(study, directory)
        plans = [point_plan(study, run.read_job(), run, code_dir) for run in runs]
        if prepare is not None:
            for run in runs:
                prepare(run)
        for run, job in zip(runs, launcher.submit_all(plans), strict=True):
            futures += follow(study, run, code_dir, launcher, job)
        for future in futures:
            future.wait()
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        launcher.close()
    for future in futures:
        future.wait()
    return was_interrupted


def _needs_no_job(run: RunDirectory) -> bool:
    return read_state(run, run.read_result()) in GOOD


def _final_state(directory: StudyDirectory) -> State[str]:
    results = {run.read_job().point: run.read_result() for run in directory.points()}
    failed = [
        f"{label}: {result.message}"
        for label, result in results.items()
        if result is not None and result.status == "failed"
    ]
    path = str(directory.path)
    if failed:
        return Failed(
            message=f"{len(failed)} of {len(results)} points failed. " + "; ".join(failed),
            data=path,
        )
    unfinished = [run for run in directory.points() if not _needs_no_job(run)]
    if unfinished:
        message = f"stopped with {len(unfinished)} of {len(results)} points to go"
        return Cancelled(message=message, data=path)
    return Completed(message=_how_many(directory.points()), data=path)


def _how_many(runs: Sequence[RunDirectory]) -> str:
    """Say how many points have finished, and how: ``12 points finished, 4 of them reused``."""
    predicted = sum(run.predicted_only.exists() for run in runs)
    reused = sum(run.reused.exists() for run in runs)
    told = f"{len(runs) - predicted} points finished"
    told += f", {reused} of them reused" if reused else ""
    return told + (f", {predicted} predicted only" if predicted else "")
