"""What varies in a study, as MLflow parameters; its whole configuration, as a file.

MLflow compares runs by their parameters, in tables and in parallel coordinates. A parameter that
is the same in all runs says nothing there, and one that only some runs have takes the others out of
the chart. So a point's run has what its grid varies, and the whole experiment as ``config.yaml``.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import yaml
from pydantic import JsonValue

from configs.federated import FederatedExperiment
from configs.study import Experiment, Point, Study
from tasks.tracking.axes import SEED_AXES

MAX_LENGTH = 500
_MAX_ELEMENTS = 8


def varying_parameters(study: Study) -> dict[str, dict[str, str]]:
    """Return the parameters of all points of a study.

    Each has the axes of the grid: the value where it is one, the label where an axis gives names to
    sets of values. Beside them is what the axes set, as far as every point has it and it is not
    the same at all, and what follows from a training (see ``derived``), as far as it varies.

    Args:
        study: The study.

    Returns:
        Label of the point -> dotted path -> value, written as in YAML; the paths are the same at
        all points.
    """
    points = study.points()
    flat = [flatten(point.experiment.model_dump(mode="json")) for point in points]
    shared = _set_and_varying(study, flat)
    following = _varying([derived(point.experiment) for point in points])
    return {
        point.label: {
            **(axes := _axes(study, point, values)),
            **{path: values[path] for path in shared if path not in axes},
            **{name: text for name, text in follows.items() if name not in axes},
        }
        for point, values, follows in zip(points, flat, following, strict=True)
    }


def chart_axes(study: Study, parameters: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Choose what the parallel coordinates of a study show, in their order.

    Args:
        study: The study.
        parameters: Of all its points, as ``varying_parameters`` returns them.

    Returns:
        The axes of the grid that vary, seeds last, then the numbers that follow from them. Other
        texts would say once more what an axis says.
    """
    values = {
        name: {one[name] for one in parameters.values()}
        for name in next(iter(parameters.values()), {})
    }
    varying = [name for name, found in values.items() if len(found) > 1]
    axes = sorted((name for name in varying if name in study.grid), key=SEED_AXES.__contains__)
    numbers = [name for name in varying if name not in study.grid and _are_numbers(values[name])]
    return [*axes, *numbers]


def _are_numbers(texts: Iterable[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False


def _axes(study: Study, point: Point, values: Mapping[str, str]) -> dict[str, str]:
    """Return the position on each axis: a number, if that is what stands in the grid."""
    return {
        name: label if isinstance(study.grid[name], dict) else values.get(name, label)
        for name, label in point.coordinates.items()
    }


def _varying(records: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Leave out what is the same in all records."""
    return [
        {name: text for name, text in one.items() if any(text != each[name] for each in records)}
        for one in records
    ]


def _set_and_varying(study: Study, flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Paths below what the axes set, which all points have, with different values."""
    touched = [path for name, axis in study.grid.items() for path in _paths(name, axis)]
    return [
        path
        for path in flat[0]
        if any(path == one or path.startswith(f"{one}.") for one in touched)
        and all(path in values for values in flat)
        and len({values[path] for values in flat}) > 1
    ]


def _paths(
    name: str, axis: Sequence[JsonValue] | Mapping[str, Mapping[str, JsonValue]]
) -> set[str]:
    if isinstance(axis, Mapping):
        return {path for overrides in axis.values() for path in overrides}
    return {name}


def derived(experiment: Experiment) -> dict[str, str]:
    """Return what follows from the configuration of a training, and is compared where it varies.

    Args:
        experiment: The experiment; of a federated one nothing is added.

    Returns:
        The ranks, the partition in a word and its degrees, the model's parameters and the tokens of
        a train step.
    """
    if isinstance(experiment, FederatedExperiment):
        return {}
    return {
        "ranks": str(experiment.ranks),
        "partition": experiment.partition_name,
        "degrees": "|".join(map(str, experiment.degrees.model_dump().values())),
        "model.num_parameters": str(experiment.model.num_parameters),
        "tokens_per_step": str(experiment.tokens_per_step),
    }


def as_yaml(experiment: Experiment) -> str:
    """Write a whole experiment as YAML, defaults included.

    Args:
        experiment: The experiment.
    """
    record = experiment.model_dump(mode="json")
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100)


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
