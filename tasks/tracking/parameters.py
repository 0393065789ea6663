"""An experiment as MLflow parameters: flat, dotted names, short texts."""

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from configs.federated import FederatedExperiment
from configs.gpt import PRESETS
from configs.topology import load_topology, shipped_topologies
from configs.training import TrainingExperiment

MAX_LENGTH = 500
_MAX_ELEMENTS = 8


def parameters_of(experiment: FederatedExperiment | TrainingExperiment) -> dict[str, str]:
    """Return the parameters of a run.

    Of a training, what a name already says is left out: the sizes of a preset of the model, and
    the levels and devices of a machine that Watershed ships. What follows from the rest, and is
    compared, is added: the model's parameters, the degrees of the partition, the tokens of a step.

    Args:
        experiment: What it runs.

    Returns:
        Dotted path -> value.
    """
    flat = flatten(experiment.model_dump(mode="json"))
    if isinstance(experiment, FederatedExperiment):
        return flat
    for path in _told_by_names(experiment):
        flat.pop(path)
    return flat | {
        "model.num_parameters": str(experiment.model.num_parameters),
        "partition": experiment.partition_name,
        "degrees": "|".join(map(str, experiment.degrees.model_dump().values())),
        "tokens_per_step": str(experiment.tokens_per_step),
    }


def _told_by_names(experiment: TrainingExperiment) -> Iterator[str]:
    model, topology = experiment.model, experiment.topology
    sizes = PRESETS.get(model.preset, {})
    yield from (f"model.{name}" for name, size in sizes.items() if getattr(model, name) == size)
    if topology.name in shipped_topologies() and topology == load_topology(topology.name):
        record: dict[str, JsonValue] = {"topology": topology.model_dump(mode="json")}
        yield from (path for path in flatten(record) if path != "topology.name")


def flatten(record: Mapping[str, JsonValue]) -> dict[str, str]:
    """Flatten nested configuration.

    Args:
        record: Nested mapping, as ``model_dump(mode="json")`` gives it.

    Returns:
        Dotted path -> value as it would stand in YAML on one line. Lists of more than 8 elements
        are abbreviated, texts of more than 500 characters cut; both say how long they were.
    """
    return dict(_flat("", record))


def _flat(prefix: str, record: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(f"{path}.", value)
        else:
            yield path, _shortened(_text(value))


def _text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) > _MAX_ELEMENTS:
        shown = ", ".join(json.dumps(element) for element in value[:_MAX_ELEMENTS])
        return f"[{shown}, ... ({len(value)} values)]"
    return json.dumps(value)


def _shortened(text: str) -> str:
    if len(text) <= MAX_LENGTH:
        return text
    mark = f"... ({len(text)} characters)"
    return text[: MAX_LENGTH - len(mark)] + mark
