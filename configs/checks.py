"""Checks of a valid study against the machine: files that must exist, and what deserves a warning.

They look, but load nothing: what only the data themselves can tell, the job reports.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from configs.arrivals import BudgetSteps, EventDriven, SpeedSteps, Synchronous
from configs.base import Fault
from configs.data import DATASETS, Data, LocationError, locate
from configs.federated import FederatedExperiment
from configs.hub_cache import Reader, hub_fault, hub_note, reader_of, unseen_note
from configs.measuring import points_to_run, why_too_large
from configs.models import CharLstm, Quadratic
from configs.sizes import in_flight_bytes, num_parameters, server_memory_bytes
from configs.stability import step_warnings
from configs.study import Study
from configs.trace import trace_faults
from configs.training import TrainingExperiment
from configs.training_checks import training_faults, training_notes

_NOTABLE_BYTES = 1_000_000
_NOTABLE_IN_FLIGHT_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Findings:
    """What a check has found; what several points share is said once.

    Attributes:
        faults: Why the study cannot run.
        warnings: What its author should change, or know the reason for.
        notes: What its author should know.
    """

    faults: list[Fault]
    warnings: list[str]
    notes: list[str]


def check_study(study: Study) -> Findings:
    """Check every point of a study that is to run.

    Args:
        study: A validated study.

    Returns:
        What was found, in the order of the points.
    """
    experiments = [point.experiment for point in points_to_run(study)]
    federated = [one for one in experiments if isinstance(one, FederatedExperiment)]
    training = [one for one in experiments if isinstance(one, TrainingExperiment)]
    faults: dict[Fault, None] = {}
    warnings: dict[str, None] = {}
    notes: dict[str, None] = {}
    reader = reader_of(study.launcher)
    for experiment in federated:
        faults |= dict.fromkeys([*data_faults(experiment.data, reader), *trace_faults(experiment)])
        warnings |= dict.fromkeys(_step_warnings(experiment))
        notes |= dict.fromkeys([*data_notes(experiment.data, reader), *_memory_notes(experiment)])
    warnings |= dict.fromkeys(_service_warnings(federated))
    for one in training:
        faults |= dict.fromkeys(training_faults(one, study.launcher))
        notes |= dict.fromkeys(training_notes(one, study.launcher, os.cpu_count() or 1))
    notes |= dict.fromkeys(_size_notes(study))
    return Findings(list(faults), list(warnings), list(notes))


def _size_notes(study: Study) -> list[str]:
    """Say which points of a scaling study have no job because they do not fit, each reason once."""
    if study.scaling is None:
        return []
    labels: dict[str, list[str]] = {}
    for point in study.points():
        if reason := why_too_large(study, point.experiment):
            labels.setdefault(reason, []).append(point.label)
    return [
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}, predicted only: "
        f"{reason}"
        for reason, where in labels.items()
    ]


def data_faults(data: Data | None, reader: Reader) -> list[Fault]:
    """Check that a data set is where it will be read from.

    Args:
        data: Which one, and from where; None for models without data.
        reader: Who reads it.

    Returns:
        What is missing and what to put where; empty for bundled data, for the hub where it can be
        reached, and for what is not seen from here.
    """
    if data is None or (data.source is None and DATASETS[data.name].hub_name is None):
        return []
    try:
        place = locate(data.name, data.source, reader.environment)
    except LocationError as error:
        if data.source is None and reader.unseen_data:
            return []
        return [Fault(path="data.source", message=str(error))]
    message = "" if isinstance(place, Path) else hub_fault(place, reader)
    return [Fault(path="data.source", message=f"{data.name}: {message}")] if message else []


def data_notes(data: Data | None, reader: Reader) -> list[str]:
    """Say what the author of a study should know of where its data are read from.

    Args:
        data: Which data set, and from where; None for models without data.
        reader: Who reads it.

    Returns:
        The notes; none where ``data_faults`` finds a fault.
    """
    if data is None or DATASETS[data.name].hub_name is None or data_faults(data, reader):
        return []
    if data.source is None and (root := reader.unseen_data):
        return [unseen_note(root)]
    place = locate(data.name, data.source, reader.environment)
    if isinstance(place, Path):
        return []
    told = []
    if data.source is not None:
        told.append(f"{data.source}: no such directory here; taken as a hub name")
    return [*told, *filter(None, [hub_note(place, reader)])]


def _service_warnings(experiments: list[FederatedExperiment]) -> list[str]:
    """Warn of service times that were set, but that no point asks for.

    A base may set them for some points of its grid only: the synchronous ones, say.
    """
    kinds = dict.fromkeys(
        experiment.arrivals.kind
        for experiment in experiments
        if "service" in experiment.model_fields_set
    )
    if not kinds or any(_uses_service(experiment) for experiment in experiments):
        return []
    return [
        f"service is set, but {' and '.join(kinds)} arrivals do not use it; use arrivals "
        "synchronous or event_driven, or local_steps speed or time_budget, or remove service"
    ]


def _uses_service(experiment: FederatedExperiment) -> bool:
    return isinstance(experiment.arrivals, (Synchronous, EventDriven)) or isinstance(
        experiment.local_steps, (SpeedSteps, BudgetSteps)
    )


def _step_warnings(experiment: FederatedExperiment) -> list[str]:
    """Warn of unstable steps where the curvature is known without data."""
    model = experiment.model
    if not isinstance(model, Quadratic):
        return []
    curvature = max(model.curvature_of(worker) for worker in range(experiment.workers))
    return list(step_warnings(experiment, curvature))


def _memory_notes(experiment: FederatedExperiment) -> list[str]:
    parameters = num_parameters(experiment)
    if parameters is None:
        return []
    notes = []
    # The vocabulary of a text, and with it the size of its model, is known only from the data.
    about = "about " if isinstance(experiment.model, CharLstm) else ""
    size = server_memory_bytes(experiment, parameters)
    if size >= _NOTABLE_BYTES:
        notes.append(
            f"{experiment.algorithm.name} keeps {about}{size:,} bytes at the server "
            f"({experiment.workers:,} workers x {about}{parameters:,} parameters)"
        )
    size = in_flight_bytes(experiment, parameters)
    if size >= _NOTABLE_IN_FLIGHT_BYTES:
        notes.append(
            f"models that workers still work on take up to {about}{size:,} bytes (one of "
            f"{about}{parameters:,} parameters for each version in flight)"
        )
    return notes
