"""The flow of a scaling study: predict all points, reuse what is known, run the rest, report."""

from functools import partial
from pathlib import Path

from prefect import State, flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.directories import runs_directory
from configs.forms import ScalingInput
from flows.federated import follow_federated, prepare_workers
from flows.parameters import NumParallel, Points, RunsDir, StudyDir
from flows.points import NUM_FOLLOWED, run_points
from flows.resolving import refused, resolved
from flows.training import follow_training
from tasks.steps.predicting import predict_points
from tasks.steps.reusing import reuse_points


@flow(
    name="scaling-study",
    task_runner=ThreadPoolTaskRunner(max_workers=NUM_FOLLOWED),  # type: ignore[arg-type]  # generic
)
def scaling_study(
    study: ScalingInput,
    runs_dir: RunsDir = None,
    study_dir: StudyDir = None,
    num_parallel: NumParallel = None,
    points: Points = None,
) -> State[str]:
    """Measure and predict strategies over sizes, and report both side by side.

    Every point is predicted where the cost model knows enough. Points that do not fit in memory, or
    that the study does not want to be measured, have no job. What an earlier study in the same
    directory has finished is taken over, unless the study says ``reuse: false``. The rest runs as
    in the flows of its kind: a failed point does not stop the others, what is interrupted
    continues.

    Args:
        study: What to run: a preset with changes, or a whole study.
        runs_dir: Where a new study's directory is made. Empty: WATERSHED_RUNS_DIR, else runs.
        study_dir: A directory that was made for this study before. Empty: a new one.
        num_parallel: Most local jobs at a time. 0: one, since times are measured.
        points: Numbers of the points to run, from 0. Empty: all that have not finished.

    Returns:
        Completed (the message counts what was measured, reused and predicted only), Failed (the
        study is faulty, and nothing was made; or some points have failed; the message says what)
        or Cancelled.
    """
    found = resolved(study, study_dir=study_dir, points=points)
    if isinstance(found, list):
        return refused(found)
    is_training = found.experiment.kind == "training"
    return run_points(
        found,
        found.experiment.kind,
        follow_training if is_training else follow_federated,
        prepare=None if is_training else prepare_workers,
        arrange=partial(_arrange, num_parallel=num_parallel),
        runs_dir=runs_directory(runs_dir),
        study_dir=study_dir,
        num_parallel=num_parallel,
        points=points,
    )


def _arrange(study_dir: Path, num_parallel: int | None) -> None:
    """Predict, then take over what is finished."""
    predict_points(study_dir)
    reuse_points(study_dir, num_parallel)
