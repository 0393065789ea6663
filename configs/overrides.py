"""Overrides: a dotted path and the value that it gets in a configuration as it was written."""

from typing import Any

from pydantic import ValidationError

from configs.gpt import PRESETS
from configs.training import TrainingExperiment

_NAMED = {"model", "algorithm", "data", "server"}


class OverrideError(ValueError):
    """A dotted path that leads through something that is no mapping.

    Attributes:
        path: The dotted path.
    """

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(message)


def set_path(raw: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401  raw YAML
    """Set one value in nested raw configuration; missing mappings on the way are made.

    A bare word on the way (``algorithm: afa_cd``, ``transport: zero_topo``) stands for a record, so
    a path below it first expands it.

    Args:
        raw: The nested mapping, changed in place.
        path: Dotted path, such as ``algorithm.server_lr``.
        value: The new value.

    Raises:
        OverrideError: The path is empty or leads through a value that is no mapping.
    """
    *parents, last = path.split(".")
    if not all([*parents, last]):
        raise OverrideError(path, f"'{path}' is no dotted path; write like algorithm.server_lr")
    node = raw
    for depth, key in enumerate(parents):
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        elif isinstance(child, str):
            is_training = raw.get("kind") == "training"
            child = node[key] = _trained(key, child) if is_training else {_tag(key): child}
        if not isinstance(child, dict):
            above = ".".join(parents[: depth + 1])
            raise OverrideError(path, f"{above} is {child!r}, which has no fields to set")
        node = child
    if last == "preset":
        _drop_sizes(node)
    node[last] = value


def _tag(key: str) -> str:
    """Name of the field that a bare word is the value of."""
    return {"worker": "optimizer"}.get(key, "name" if key in _NAMED else "kind")


def _trained(key: str, word: str) -> Any:  # noqa: ANN401  raw YAML
    """Write out what a bare word means in a training; the word itself if it is no record."""
    try:
        experiment = TrainingExperiment.model_validate({"kind": "training", key: word})
    except ValidationError:
        return word
    return experiment.model_dump(mode="json", exclude_unset=True)[key]


def _drop_sizes(model: dict[str, Any]) -> None:
    """Remove the sizes that a model has from its preset, so that another preset's take effect."""
    for size, number in PRESETS.get(str(model.get("preset")), {}).items():
        if model.get(size) == number:
            del model[size]
