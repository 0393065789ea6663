"""Checks of a valid study against the machine: files that must exist, and what deserves a warning.

They look, but load nothing: what only the data themselves can tell, the job reports.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from configs.base import Fault
from configs.data import DATASETS, Data
from configs.federated import FederatedExperiment
from configs.models import Quadratic
from configs.sizes import num_parameters, server_memory_bytes
from configs.stability import step_warnings
from configs.study import Study
from configs.trace import trace_faults

DATA_ENVIRONMENT = "WATERSHED_DATA"
"""Environment variable that names the directory of all data sets."""

_NOTABLE_BYTES = 1_000_000
_LOCAL_NAMES = {"mnist": "mnist", "cifar10": "cifar10", "shakespeare": "tinyshakespeare.txt"}
_LAYOUT = dict.fromkeys(
    ("mnist", "cifar10"),
    "a directory with parquet files train-*.parquet and test-*.parquet (Hugging Face layout), at "
    "its top or one level below",
) | {"shakespeare": "a text file, or a directory with one in it"}


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
    """Check every point of a study.

    Args:
        study: A validated study.

    Returns:
        What was found, in the order of the points.
    """
    faults: dict[Fault, None] = {}
    warnings: dict[str, None] = {}
    notes: dict[str, None] = {}
    for point in study.points():
        experiment = point.experiment
        faults |= dict.fromkeys([*data_faults(experiment.data), *trace_faults(experiment)])
        warnings |= dict.fromkeys(_step_warnings(experiment))
        notes |= dict.fromkeys(_memory_notes(experiment))
    return Findings(list(faults), list(warnings), list(notes))


def data_faults(data: Data | None) -> list[Fault]:
    """Check that a local data set is where it should be.

    Args:
        data: Which one, and from where; None for models without data.

    Returns:
        What is missing and what to put where; empty for bundled data, and for the hub.
    """
    if data is None:
        return []
    local = _LOCAL_NAMES.get(data.name)
    if local is None:
        message = f"{data.name} is bundled and comes from nowhere else; remove this key"
        return [Fault(path="data.source", message=message)] if data.source else []
    if data.source is not None:
        is_path = data.source.startswith((".", "/", "~"))
        if not is_path or Path(data.source).expanduser().exists():
            return []
        message = (
            f"{data.source} does not exist. Put {_LAYOUT[data.name]} there, or name another place. "
            f"Without this key {_default_place(data.name)}"
        )
        return [Fault(path="data.source", message=message)]
    root = os.environ.get(DATA_ENVIRONMENT)
    if not root:
        return []
    found = [Path(root, local), *(Path(root).glob("shakespeare*") if "." in local else ())]
    if any(path.exists() for path in found):
        return []
    message = (
        f"{DATA_ENVIRONMENT} is {root}, which holds no {local}. Put {_LAYOUT[data.name]} there, or "
        f"name another place in data.source, or unset {DATA_ENVIRONMENT} to download it"
    )
    return [Fault(path="data.source", message=message)]


def _default_place(name: str) -> str:
    root = os.environ.get(DATA_ENVIRONMENT)
    if root:
        return f"it is read from {Path(root, _LOCAL_NAMES[name])} ({DATA_ENVIRONMENT})"
    return f"it is downloaded from the Hugging Face hub ({DATASETS[name].hub_name})"


def _step_warnings(experiment: FederatedExperiment) -> list[str]:
    """Warn of unstable steps where the curvature is known without data."""
    model = experiment.model
    if not isinstance(model, Quadratic):
        return []
    curvature = max(model.curvature_of(worker) for worker in range(experiment.workers))
    return list(step_warnings(experiment, curvature))


def _memory_notes(experiment: FederatedExperiment) -> list[str]:
    parameters = num_parameters(experiment)
    size = server_memory_bytes(experiment, parameters) if parameters else 0
    if size < _NOTABLE_BYTES:
        return []
    who = experiment.algorithm.name
    return [
        f"{who} keeps {size:,} bytes at the server "
        f"({experiment.workers:,} workers x {parameters:,} parameters)"
    ]
