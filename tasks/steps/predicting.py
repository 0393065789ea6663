"""The step that predicts the points of a scaling study, and says which of them have no job."""

from pathlib import Path

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from configs.measuring import why_not_run
from configs.study import Experiment
from configs.training import TrainingExperiment
from tasks.runtime.atomic_files import write_json
from tasks.runtime.prediction import Prediction
from tasks.runtime.records import PredictedOnly
from tasks.tracking.damage import sound_points
from tasks.tracking.study_directory import StudyDirectory
from tasks.zero.cost_model import CostError, predict


def predicted(experiment: Experiment) -> Prediction | None:
    """Predict a point.

    Args:
        experiment: The point.

    Returns:
        The prediction; None for what the cost model is not made for, or does not know enough of.
    """
    if not isinstance(experiment, TrainingExperiment):
        return None
    try:
        return predict(experiment)
    except CostError:
        return None


@task(task_run_name="predict", cache_policy=NO_CACHE)
def predict_points(study_dir: Path) -> State[str]:
    """Write what the cost model says beside every point's ``job.json``, and why a point has no job.

    A point that has run, or runs, keeps its job.

    Args:
        study_dir: The study's directory.

    Returns:
        Completed, which says how many points were predicted.

    Raises:
        OSError: A file cannot be read or written.
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    directory = StudyDirectory(study_dir)
    study = directory.read_study()
    runs = sound_points(directory)
    num_predicted = num_unmeasured = 0
    for run in runs:
        experiment = run.read_job().experiment
        prediction = predicted(experiment)
        if prediction is not None:
            num_predicted += 1
            write_json(run.prediction, prediction.model_dump(mode="json"))
        reason = "" if run.attempts() else why_not_run(study, experiment)
        if reason:
            num_unmeasured += 1
            write_json(run.predicted_only, PredictedOnly(reason=reason).model_dump(mode="json"))
        else:
            run.predicted_only.unlink(missing_ok=True)
    message = f"{num_predicted} of {len(runs)} points predicted, {num_unmeasured} of them without "
    return Completed(message=f"{message}a job", data=str(study_dir))
