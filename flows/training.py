"""The flow of a training: every point of the grid one job of all its ranks, then a report."""

from pathlib import Path

from prefect import State, flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from configs.study import Study
from flows.points import run_points
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, Launcher
from tasks.slurm.local import num_cores
from tasks.steps.training import run_training


@flow(
    name="training-run",
    task_runner=ThreadPoolTaskRunner(max_workers=num_cores()),  # type: ignore[arg-type]  # generic
)
def training_run(
    study: Study,
    runs_dir: Path = Path("runs"),
    study_dir: Path | None = None,
    num_parallel: int | None = None,
    points: list[int] | None = None,
) -> State[str]:
    """Train every point of a study that has not finished, and report.

    A failed point does not stop the others. What is interrupted or fails continues from its last
    checkpoint when the flow runs again with the same ``study_dir``. Cancelled in Prefect, or
    interrupted, the flow stops its jobs.

    Args:
        study: The study; its experiment is of kind training.
        runs_dir: Where a new study's directory is made.
        study_dir: A directory that was made for this study before. Default: a new one.
        num_parallel: Most local jobs at a time. Default: one, whose ranks share the cores.
        points: Numbers of the points to run, from 0. Default: all that have not finished.

    Returns:
        Completed, Failed (some points have; the message names them) or Cancelled.
    """
    return run_points(
        study,
        "training",
        follow_training,
        runs_dir=runs_dir,
        study_dir=study_dir,
        num_parallel=num_parallel,
        points=points,
    )


def follow_training(
    study: Study, run: RunDirectory, code_dir: Path | None, launcher: Launcher, job: JobId
) -> list[PrefectFuture[State[str]]]:
    """Follow the job of a point."""
    del study, code_dir
    return [run_training.submit(run.read_job().point, run.path, launcher, job)]
