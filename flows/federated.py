"""The flow of a federated study: every point of the grid a job, then a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from configs.directories import runs_directory
from configs.forms import FederatedInput
from configs.study import Study
from flows.parameters import NumParallel, Points, RunsDir, StudyDir
from flows.points import NUM_FOLLOWED, run_points
from flows.resolving import refused, resolved
from tasks.runtime.clients import make_client_directories
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.steps.anarchic import follow_blocks, follow_workers
from tasks.steps.launching import is_anarchic, worker_plans
from tasks.steps.points import run_point
from tasks.steps.workers import Workers, tend


@flow(
    name="federated-study",
    task_runner=ThreadPoolTaskRunner(max_workers=NUM_FOLLOWED),  # type: ignore[arg-type]  # generic
)
def federated_study(
    study: FederatedInput,
    runs_dir: RunsDir = None,
    study_dir: StudyDir = None,
    num_parallel: NumParallel = None,
    points: Points = None,
) -> State[str]:
    """Run every point of a federated study that has not finished, and report.

    A failed point does not stop the others. What is interrupted or fails continues from its last
    checkpoint when the flow runs again with the same ``study_dir``. Cancelled in Prefect, or
    interrupted, the flow stops its jobs.

    Args:
        study: What to run: a preset with changes, or a whole study.
        runs_dir: Where a new study's directory is made. Empty: WATERSHED_RUNS_DIR, else runs.
        study_dir: A directory that was made for this study before. Empty: a new one.
        num_parallel: Most local jobs at a time. 0: one a core.
        points: Numbers of the points to run, from 0. Empty: all that have not finished.

    Returns:
        Completed, Failed (the study is faulty, and nothing was made; or some points have failed;
        the message says what) or Cancelled.
    """
    found = resolved(study, study_dir=study_dir, points=points)
    if isinstance(found, list):
        return refused(found)
    return run_points(
        found,
        "federated",
        follow_federated,
        prepare=prepare_workers,
        runs_dir=runs_directory(runs_dir),
        study_dir=study_dir,
        num_parallel=num_parallel,
        points=points,
    )


def prepare_workers(run: RunDirectory) -> None:
    """Make what a point's workers need before the server's job is submitted."""
    if is_anarchic(run.read_job()):
        make_client_directories(run)


def follow_federated(
    study: Study,
    code_dir: Path | None,
    launcher: Launcher,
    jobs: Sequence[tuple[RunDirectory, JobId]],
) -> Iterator[PrefectFuture[State[str]]]:
    """Follow the jobs of points; look after the workers of those that are servers' from now on."""
    job_files = {run: run.read_job() for run, _ in jobs}
    workers = {
        run: Workers(launcher, job, worker_plans(study, job_files[run], run, code_dir))
        for run, job in jobs
        if is_anarchic(job_files[run])
    }
    if workers:
        tend(list(workers.values()), get_run_logger())
    for run, job in jobs:
        label = job_files[run].point
        yield run_point.submit(label, run.path, launcher, job)
        if run in workers:
            yield follow_workers.submit(label, launcher, workers[run])
            yield follow_blocks.submit(label, run.path, launcher, job)
