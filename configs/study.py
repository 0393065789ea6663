"""A study: a base experiment, and a grid of what varies.

A grid axis is either a dotted path with its values, or a name with labelled sets of overrides::

    grid:
      algorithm.collect: [5, 10, 20]
      arrivals:
        synchronous: {arrivals: synchronous}
        anarchic: {arrivals.kind: uniform, arrivals.max_delay: 10}

Points are the product of the axes, in the order written. The base must be valid on its own.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, JsonValue, ValidationError, model_validator

from configs.base import Fault, Record, raise_faults
from configs.faults import faults_in
from configs.federated import FederatedExperiment

Experiment = FederatedExperiment
"""What a study varies; ``kind`` says which (``training`` and ``scaling`` join as a tagged union)."""

Overrides = dict[str, JsonValue]
Axis = list[JsonValue] | dict[str, Overrides]


@dataclass(frozen=True)
class Point:
    """One point of a study's grid.

    Attributes:
        index: Position in the grid, from 0.
        label: What varies, for people: ``algorithm=afa_cd seed=1``; ``base`` when nothing does.
        coordinates: Axis name -> label of the value on that axis.
        experiment: The validated experiment.
    """

    index: int
    label: str
    coordinates: Mapping[str, str]
    experiment: Experiment

    @property
    def config_hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the experiment's canonical JSON."""
        text = json.dumps(self.experiment.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Study(Record):
    """A base experiment and the grid of what varies."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the study: letters, digits, dot, dash, underscore.",
    )
    description: str = Field(default="", description="What the study asks, in a sentence or two.")
    experiment: Experiment = Field(description="The base; valid on its own.")
    grid: dict[str, Axis] = Field(
        default={}, description="Axes: a dotted path with values, or a name with overrides."
    )

    @model_validator(mode="after")
    def _points_are_valid(self) -> "Study":
        raise_faults("Study", list(self._grid_faults()))
        return self

    def _grid_faults(self) -> Iterator[Fault]:
        for name, axis in self.grid.items():
            if not axis:
                yield Fault(path=f"grid.{name}", message="has no values; give at least one")
        seen: dict[tuple[str, str], list[str]] = {}
        combinations = list(self._combinations())
        for coordinates, overrides in combinations:
            try:
                raw = self._overridden(overrides)
                faults = faults_in(FederatedExperiment, raw)
            except OverrideError as error:
                faults = [Fault(path="grid", message=str(error))]
            for fault in faults:
                key = (fault.path, fault.message)
                seen.setdefault(key, []).append(_label(coordinates))
        for (path, message), labels in seen.items():
            where = f"in {len(labels)} of {len(combinations)} points, first: {labels[0]}"
            yield Fault(path=f"grid.{path}", message=f"{message} ({where})")

    def _combinations(self) -> Iterator[tuple[dict[str, str], Overrides]]:
        axes = [_axis_values(name, axis) for name, axis in self.grid.items()]
        for combination in itertools.product(*axes):
            coordinates = dict(zip(self.grid, (label for label, _ in combination), strict=True))
            merged: Overrides = {}
            for _, overrides in combination:
                merged.update(overrides)
            yield coordinates, merged

    def _overridden(self, overrides: Overrides) -> dict[str, Any]:
        raw = self.experiment.model_dump(mode="json", exclude_unset=True)
        for path, value in overrides.items():
            set_path(raw, path, value)
        return raw

    def points(self) -> list[Point]:
        """Return the grid points in order; a study without a grid has one."""
        return [
            Point(
                index=index,
                label=_label(coordinates),
                coordinates=coordinates,
                experiment=FederatedExperiment.model_validate(self._overridden(overrides)),
            )
            for index, (coordinates, overrides) in enumerate(self._combinations())
        ]


class OverrideError(ValueError):
    """A dotted path that leads through something that is no mapping."""


def set_path(raw: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401  raw YAML
    """Set one value in nested raw configuration; missing mappings on the way are made.

    A bare word on the way (``algorithm: afa_cd``) is the tag of a record, so a path below it
    first expands it.

    Args:
        raw: The nested mapping, changed in place.
        path: Dotted path, such as ``algorithm.server_lr``.
        value: The new value.

    Raises:
        OverrideError: The path is empty or leads through a value that is no mapping.
    """
    *parents, last = path.split(".")
    if not all([*parents, last]):
        raise OverrideError(f"'{path}' is no dotted path; write for example algorithm.server_lr")
    node = raw
    for depth, key in enumerate(parents):
        child = node.get(key)
        if child is None or isinstance(child, str):
            tag = {"worker": "optimizer"}.get(key, "name" if key in _NAMED else "kind")
            child = {} if child is None else {tag: child}
            node[key] = child
        if not isinstance(child, dict):
            raise OverrideError(
                f"'{path}': {'.'.join(parents[: depth + 1])} is {child!r}, not a mapping"
            )
        node = child
    node[last] = value


_NAMED = {"model", "algorithm", "data", "server"}


def _axis_values(name: str, axis: Axis) -> list[tuple[str, Overrides]]:
    if isinstance(axis, dict):
        return list(axis.items())
    return [(_value_label(value), {name: value}) for value in axis]


def _value_label(value: JsonValue) -> str:
    return str(value) if isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _label(coordinates: Mapping[str, str]) -> str:
    if not coordinates:
        return "base"
    return " ".join(f"{name.rsplit('.', 1)[-1]}={label}" for name, label in coordinates.items())


__all__ = ["Experiment", "Overrides", "Point", "Study", "ValidationError", "set_path"]
