"""Which points of a study run, and why the others are only predicted."""

from configs.study import Experiment, Point, Study
from configs.training import TrainingExperiment
from configs.training_checks import device_bytes, is_bound_to_devices
from configs.training_memory import least_ranks, predicted_memory

TOO_LARGE = "does not fit"


def points_to_run(study: Study) -> list[Point]:
    """List the points that become jobs.

    Args:
        study: The study.

    Returns:
        Of a study without a ``scaling`` section all; else those that are asked for and fit.
    """
    return [point for point in study.points() if not why_not_run(study, point.experiment)]


def why_not_run(study: Study, experiment: Experiment) -> str:
    """Say why a point is predicted only.

    Args:
        study: Its study.
        experiment: The point.

    Returns:
        A sentence; empty if the point is to run. What does not fit in memory does not run, and the
        sentence names the smallest number of devices that would do. A study without a ``scaling``
        section predicts nothing: there it is a fault.
    """
    if study.scaling is None:
        return ""
    if does_not_fit := why_too_large(study, experiment):
        return does_not_fit
    if study.scaling.is_asked_for(experiment):
        return ""
    measure = study.scaling.measure
    asked = measure if isinstance(measure, str) else f"up_to {measure.up_to}"
    return f"not to be measured (measure: {asked})"


def why_too_large(study: Study, experiment: Experiment) -> str:
    """Say that a point does not fit in memory, and the smallest number of devices that would do.

    Args:
        study: Its study.
        experiment: The point.

    Returns:
        A sentence that begins with ``TOO_LARGE``; empty if it fits, or nobody has said how much
        memory there is.
    """
    if not isinstance(experiment, TrainingExperiment):
        return ""
    has = device_bytes(experiment, study.launcher)
    needed = predicted_memory(experiment).total
    if has is None or needed <= has:
        return ""
    told = f"{TOO_LARGE}: needs {needed / 1e9:.3g} GB a device, which has {has / 1e9:.3g} GB"
    if has != experiment.topology.device.memory_bytes:  # of this machine, then
        return f"{told} by launcher: local, its share of this machine's memory"
    if not is_bound_to_devices(experiment, study.launcher):
        return told
    least = least_ranks(experiment, has)
    name = experiment.partition_name
    if least is None:
        return f"{told}; no number of devices would do with {name}"
    return f"{told}; {least} devices would do with {name}"
