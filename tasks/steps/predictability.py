"""What the cost model can do for a study, before anything is made for it."""

from dataclasses import dataclass, field

from configs.base import Fault
from configs.measuring import why_not_run
from configs.study import Study
from configs.training import TrainingExperiment
from tasks.zero.cost_model import machine_faults


@dataclass(frozen=True)
class Predictability:
    """What the cost model can do for a study.

    Attributes:
        num_unpredicted: Points that are measured only.
        faults: Why points that have no job cannot be predicted either: the study would show nothing
            of them.
        notes: Why measured points stay without a prediction, and what to do.
    """

    num_unpredicted: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def predictability(study: Study) -> Predictability:
    """Find out which points of a study can be predicted.

    Args:
        study: The study; without a ``scaling`` section nothing is to be predicted.
    """
    if study.scaling is None:
        return Predictability()
    num_points = num_unpredicted = 0
    machines: dict[str, None] = {}
    missing: dict[str, None] = {}
    faults: dict[Fault, None] = {}
    for point in study.points():
        experiment = point.experiment
        if not isinstance(experiment, TrainingExperiment):
            continue
        num_points += 1
        found = machine_faults(experiment)
        if not found:
            continue
        machines[experiment.topology.name] = None
        missing |= dict.fromkeys(fault.path for fault in found)
        if why_not_run(study, experiment):
            faults |= dict.fromkeys(map(_unmeasured, found))
        else:
            num_unpredicted += 1
    notes = []
    if missing and not faults:
        notes.append(
            f"{num_unpredicted} of {num_points} points are measured but not predicted: the file of "
            f"{' and '.join(machines)} does not tell {', '.join(missing)}; watershed calibrate "
            "measures that, and writes a file to be named as topology"
        )
    return Predictability(num_unpredicted, list(faults), notes)


def _unmeasured(fault: Fault) -> Fault:
    return fault.model_copy(
        update={"message": f"{fault.message}. Points that do not run are predicted (measure)"}
    )
