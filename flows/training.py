"""The flow of a training: every point of the grid one job of all its ranks, then a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefect import State, flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from configs.directories import runs_directory
from configs.forms import TrainingInput
from configs.study import Study
from flows.parameters import NumParallel, Points, RunsDir, StudyDir
from flows.points import NUM_FOLLOWED, run_points
from flows.resolving import refused, resolved
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.steps.points import run_point


@flow(
    name="training-run",
    task_runner=ThreadPoolTaskRunner(max_workers=NUM_FOLLOWED),  # type: ignore[arg-type]  # generic
)
def training_run(
    study: TrainingInput,
    runs_dir: RunsDir = None,
    study_dir: StudyDir = None,
    num_parallel: NumParallel = None,
    points: Points = None,
) -> State[str]:
    """Train every point of a study that has not finished, and report.

    A failed point does not stop the others. What is interrupted or fails continues from its last
    checkpoint when the flow runs again with the same ``study_dir``. Cancelled in Prefect, or
    interrupted, the flow stops its jobs.

    Args:
        study: What to run: a preset with changes, or a whole study of kind training.
        runs_dir: Where a new study's directory is made. Empty: WATERSHED_RUNS_DIR, else runs.
        study_dir: A directory that was made for this study before. Empty: a new one.
        num_parallel: Most local jobs at a time. 0: one, whose ranks share the cores.
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
        "training",
        follow_training,
        runs_dir=runs_directory(runs_dir),
        study_dir=study_dir,
        num_parallel=num_parallel,
        points=points,
    )


def follow_training(
    study: Study,
    code_dir: Path | None,
    launcher: Launcher,
    jobs: Sequence[tuple[RunDirectory, JobId]],
) -> Iterator[PrefectFuture[State[str]]]:
    """Follow the jobs of points."""
    del study, code_dir
    for run, job in jobs:
        yield run_point.submit(run.read_job().point, run.path, launcher, job)
