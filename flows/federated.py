"""The flow of a federated study: every point of the grid a job, then a report."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from prefect import State, flow
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from configs.study import Study
from tasks.runtime.clients import make_client_directories
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.slurm.local import num_cores
from tasks.slurm.plan import JobPlan
from tasks.steps.anarchic import blocks_of, follow_rounds, run_workers
from tasks.steps.cancelling import cancelled_by_prefect
from tasks.steps.creation import create_study_directory
from tasks.steps.federated import report_study, run_point
from tasks.steps.flow_record import FlowRecord, write_flow_record
from tasks.steps.following import comparison_address, followed
from tasks.steps.launching import (
    copy_code,
    is_anarchic,
    launch_faults,
    make_launcher,
    point_plan,
    worker_plans,
)
from tasks.tracking.store import default_tracking_uri
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker

_PATIENCE_S = 15.0
"""How long the end of a study waits for an MLflow that does not answer."""


@flow(
    name="federated-study",
    task_runner=ThreadPoolTaskRunner(max_workers=num_cores()),  # type: ignore[arg-type]  # generic
)
def federated_study(
    study: Study,
    runs_dir: Path = Path("runs"),
    study_dir: Path | None = None,
    num_parallel: int | None = None,
    points: list[int] | None = None,
) -> State[str]:
    """Run every point of a study that has not finished, and report.

    A failed point does not stop the others. What is interrupted or fails continues from its last
    checkpoint when the flow runs again with the same ``study_dir``. Cancelled in Prefect, or
    interrupted, the flow stops its jobs.

    Args:
        study: The study.
        runs_dir: Where a new study's directory is made.
        study_dir: A directory that was made for this study before. Default: a new one.
        num_parallel: Most local jobs at a time. Default: one a core.
        points: Numbers of the points to run, from 0. Default: all that have not finished.

    Returns:
        Completed, Failed (some points have; the message names them) or Cancelled.
    """
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
    with followed(tracker):
        launcher = make_launcher(study, directory, num_parallel)
        runs = [run for run in _chosen(directory, points) if not _has_finished(run)]
        with cancelled_by_prefect(record.flow_run_id, launcher.close):
            was_interrupted = _run_jobs(study, directory, launcher, runs)
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
    study: Study, directory: StudyDirectory, launcher: Launcher, runs: Sequence[RunDirectory]
) -> bool:
    """Run jobs to their ends; return whether Ctrl-C came before."""
    futures: list[PrefectFuture[State[str]]] = []
    was_interrupted = False
    try:
        code_dir = copy_code(study, directory)
        plans = [point_plan(study, run.read_job(), run, code_dir) for run in runs]
        for run in runs:
            if is_anarchic(run.read_job()):
                make_client_directories(run)
        for run, job in zip(runs, launcher.submit_all(plans), strict=True):
            futures.append(run_point.submit(run.read_job().point, run.path, launcher, job))
            if is_anarchic(run.read_job()):
                workers = worker_plans(study, run.read_job(), run, code_dir)
                futures += _follow_workers(run, launcher, job, workers)
        for future in futures:
            future.wait()
    except KeyboardInterrupt:
        was_interrupted = True
    finally:
        launcher.close()
    for future in futures:
        future.wait()
    return was_interrupted


def _follow_workers(
    run: RunDirectory, launcher: Launcher, server: JobId, workers: Sequence[JobPlan]
) -> list[PrefectFuture[State[str]]]:
    """Submit the workers of a server when it runs, and show its rounds in blocks."""
    job = run.read_job()
    futures = [run_workers.submit(job.point, launcher, server, workers)]
    for first, last in blocks_of(job.experiment.rounds):
        before = futures[1:]
        block: PrefectFuture[State[str]] = follow_rounds.submit(  # type: ignore[call-overload]  # wait_for
            first, last, run.path, launcher, server, wait_for=before
        )
        futures.append(block)
    return futures


def _has_finished(run: RunDirectory) -> bool:
    result = run.read_result()
    return result is not None and result.status == "finished"


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
    unfinished = [run for run in directory.points() if not _has_finished(run)]
    if unfinished:
        message = f"stopped with {len(unfinished)} of {len(results)} points to go"
        return Cancelled(message=message, data=path)
    return Completed(message=f"{len(results)} points finished", data=path)
