"""The flow of a scaling study: predict all points, reuse what is known, run the rest, report."""

from functools import partial
from pathlib import Path

from prefect import State, flow
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from configs.scaling import ScalingStudy
from configs.study import Study
from flows.federated import follow_federated, prepare_workers
from flows.points import run_points
from flows.training import follow_training
from tasks.slurm.local import num_cores
from tasks.steps.predictability import predictability
from tasks.steps.predicting import predict_points
from tasks.steps.reusing import reuse_points


@flow(
    name="scaling-study",
    task_runner=ThreadPoolTaskRunner(max_workers=num_cores()),  # type: ignore[arg-type]  # generic
)
def scaling_study(
    study: Study | ScalingStudy,
    runs_dir: Path = Path("runs"),
    study_dir: Path | None = None,
    num_parallel: int | None = None,
    points: list[int] | None = None,
) -> State[str]:
    """Measure and predict strategies over sizes, and report both side by side.

    Every point is predicted where the cost model knows enough. Points that do not fit in memory, or
    that the study does not want to be measured, have no job. What an earlier study in the same
    directory has finished is taken over, unless the study says ``reuse: false``. The rest runs as
    in the flows of its kind: a failed point does not stop the others, what is interrupted
    continues.

    Args:
        study: The study, or one with a ``scaling`` section and a grid.
        runs_dir: Where a new study's directory is made.
        study_dir: A directory that was made for this study before. Default: a new one.
        num_parallel: Most local jobs at a time. Default: one, since times are measured.
        points: Numbers of the points to run, from 0. Default: all that have not finished.

    Returns:
        Completed (the message counts what was measured, reused and predicted only), Failed (some
        points have; the message names them) or Cancelled.
    """
    study = study.study() if isinstance(study, ScalingStudy) else study
    if faults := predictability(study).faults:
        return Failed(message="; ".join(map(str, faults)), data="")
    is_training = study.experiment.kind == "training"
    return run_points(
        study,
        study.experiment.kind,
        follow_training if is_training else follow_federated,
        prepare=None if is_training else prepare_workers,
        arrange=partial(_arrange, num_parallel=num_parallel),
        runs_dir=runs_dir,
        study_dir=study_dir,
        num_parallel=num_parallel,
        points=points,
    )


def _arrange(study_dir: Path, num_parallel: int | None) -> None:
    """Predict, then take over what is finished."""
    predict_points(study_dir)
    reuse_points(study_dir, num_parallel)
