"""A study: a base experiment, and a grid of what varies.

A grid axis is either a dotted path with its values, or a name with labelled sets of overrides::

    grid:
      algorithm.collect: [5, 10, 20]
      arrivals:
        synchronous: {arrivals: synchronous}
        anarchic: {arrivals.kind: uniform, arrivals.max_delay: 10}

Points are the product of the axes, in the order written. The base must be valid on its own. An
override replaces what it names: a mapping the whole record, ``algorithm.name: afa_cs`` that field
alone. A word, ``algorithm: afa_cs``, chooses the kind of the record; what the base has of fields
that AFA-CS has too stays.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, field_serializer, model_validator

from configs.base import Fault, Record, raise_faults, tagged_by
from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.launchers import LauncherConfig, LocalLauncherConfig
from configs.overrides import OverrideError, set_path, undoes
from configs.placement import placement_faults
from configs.scaling_points import Scaling
from configs.topology import Topology
from configs.tracked_names import tracked_name
from configs.training import TrainingExperiment

Experiment = Annotated[
    FederatedExperiment | TrainingExperiment,
    Field(discriminator="kind"),
    tagged_by("kind", "federated"),
]
"""What a study varies; its ``kind`` says which, and is the same at all points."""

Overrides = dict[str, JsonValue]
Axis = list[JsonValue] | dict[str, Overrides]

_MOST_POINTS = 10_000
_LONGEST_LABEL = 40
_SEPARATOR = " \N{MIDDLE DOT} "
_TAGS = {"name", "kind", "optimizer", "preset"}
"""Fields that choose a record; a label names what was chosen: ``worker=fedprox``."""


@dataclass(frozen=True)
class Point:
    """One point of a study's grid.

    Attributes:
        index: Position in the grid, from 0.
        label: What varies, for people: ``afa_cd · seed=1``; ``base`` when nothing does.
        coordinates: Axis name -> label of the value on that axis.
        experiment: The validated experiment.
    """

    index: int
    label: str
    coordinates: Mapping[str, str]
    experiment: Experiment

    @property
    def config_hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the experiment's canonical JSON.

        Of a machine only what a job sees counts: its name, its levels, and the peak of its devices,
        from which the MFU follows. What predictions are made from may change between two runs of
        the same experiment.
        """
        experiment = self.experiment.model_dump(mode="json")
        if isinstance(self.experiment, TrainingExperiment):
            experiment["topology"] = _seen_by_jobs(self.experiment.topology)
        text = json.dumps(experiment, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _seen_by_jobs(topology: Topology) -> dict[str, JsonValue]:
    return {
        "name": topology.name,
        "levels": [[level.name, level.ranks] for level in topology.levels],
        "peak_tflops": topology.device.model_dump(mode="json")["peak_tflops"],
    }


class Study(Record):
    """A base experiment and the grid of what varies."""

    model_config = ConfigDict(title="Whole study")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the study: letters, digits, dot, dash, underscore; at most 63, the "
        "first a letter or digit.",
    )
    description: str = Field(default="", description="What the study asks, in a sentence or two.")
    experiment: Experiment = Field(description="The base; valid on its own.")
    launcher: LauncherConfig = Field(
        default=LocalLauncherConfig(), description="Where the jobs run."
    )
    grid: dict[str, Axis] = Field(
        default={}, description="Axes: a dotted path with values, or a name with overrides."
    )
    scaling: Scaling | None = Field(
        default=None,
        description="What is compared over sizes. A file of kind scaling is turned into this.",
    )

    @field_serializer("experiment")
    def _as_written(self, experiment: Experiment) -> dict[str, JsonValue]:
        """Leave out what was not set: overrides act on the base as it was written."""
        return experiment.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="after")
    def _points_are_valid(self) -> "Study":
        raise_faults("Study", list(self._grid_faults()))
        return self

    def _grid_faults(self) -> Iterator[Fault]:
        for name, axis in self.grid.items():
            if not axis:
                yield Fault(path=f"grid.{name}", message="has no values; give at least one")
        yield from self._equal_names()
        if self.scaling is not None:
            for fault in self.scaling.faults(list(self.grid)):
                yield fault.model_copy(update={"path": f"scaling.{fault.path}"})
        clashes = list(self._clashes())
        yield from clashes
        num_points = math.prod(len(axis) for axis in self.grid.values())
        if num_points > _MOST_POINTS:
            message = f"{num_points} points are more than {_MOST_POINTS}; vary less, or split it"
            yield Fault(path="grid", message=message)
            return
        seen: dict[Fault, list[str]] = {}
        for coordinates, overrides in self._combinations():
            try:
                faults = faults_in(type(self.experiment), self._overridden(overrides))
            except OverrideError as error:
                faults = [Fault(path=error.path, message=str(error))]
            for fault in faults:
                seen.setdefault(fault, []).append(label_of(coordinates))
        if not seen and not clashes:
            points = self.points()
            yield from self._twins(points)
            yield from placement_faults(self.launcher, [point.experiment for point in points])
        for fault, labels in seen.items():
            where = "" if num_points == 1 else f" (at {len(labels)} of {num_points} points, first: "
            where += f"{labels[0]})" if where else ""
            yield self._on_axis(fault, where)

    def _equal_names(self) -> Iterator[Fault]:
        """Find axes that MLflow would take for one, as it refuses characters of their names."""
        first: dict[str, str] = {}
        for name in self.grid:
            other = first.setdefault(tracked_name(name), name)
            if other != name:
                message = f"is '{tracked_name(name)}' in MLflow, as '{other}' is; rename one"
                yield Fault(path=f"grid.{name}", message=message)

    def _twins(self, points: Iterable[Point]) -> Iterator[Fault]:
        """Find points that differ in words only, such as rates 1 and 1.0."""
        first: dict[str, Point] = {}
        for point in points:
            twin = first.setdefault(point.experiment.model_dump_json(), point)
            if twin is not point:
                axes = [a for a in self.grid if twin.coordinates[a] != point.coordinates[a]]
                message = f"'{twin.label}' and '{point.label}' are the same experiment; remove one"
                yield Fault(path=f"grid.{axes[0]}", message=message)
                return

    def _clashes(self) -> Iterator[Fault]:
        """Find overrides that undo what an axis before has set, and values that stand twice."""
        earlier: dict[str, str] = {}
        raw = self._overridden({})
        for name, axis in self.grid.items():
            values = [json.dumps(value) for value in axis] if isinstance(axis, list) else []
            if twice := [value for value in values if values.count(value) > 1]:
                yield Fault(path=f"grid.{name}", message=f"{twice[0]} stands twice; remove one")
            paths = _paths_set(name, axis)
            undone = {
                (path, before): other
                for path, values in paths.items()
                for before, other in earlier.items()
                if any(undoes(raw, path, value, before) for value in values)
            }
            for (path, before), other in undone.items():
                message = f"sets {path}, which undoes {before} of the axis '{other}'; put it first"
                yield Fault(path=f"grid.{name}", message=message)
            earlier |= dict.fromkeys(paths, name)

    def _on_axis(self, fault: Fault, where: str) -> Fault:
        """Say of a point's fault where in the grid it comes from."""
        axes = [
            name
            for name, axis in self.grid.items()
            if any(touches(path, fault.path) for path in _paths_set(name, axis))
        ]
        return Fault(
            path=f"grid.{axes[0]}" if axes else "grid",
            message=f"{fault.message if axes == [fault.path] else fault}{where}",
            related=tuple(f"experiment.{path}" for path in (fault.path, *fault.related) if path),
        )

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
                label=label_of(coordinates),
                coordinates=coordinates,
                experiment=type(self.experiment).model_validate(self._overridden(overrides)),
            )
            for index, (coordinates, overrides) in enumerate(self._combinations())
        ]


def _axis_values(name: str, axis: Axis) -> list[tuple[str, Overrides]]:
    if isinstance(axis, dict):
        return list(axis.items())
    labels = _distinct(_value_label(value) for value in axis)
    return [(label, {name: value}) for label, value in zip(labels, axis, strict=True)]


def _paths_set(name: str, axis: Axis) -> dict[str, list[JsonValue]]:
    """List the paths that an axis sets, each with its values."""
    if isinstance(axis, list):
        return {name: axis}
    paths: dict[str, list[JsonValue]] = {}
    for overrides in axis.values():
        for path, value in overrides.items():
            paths.setdefault(path, []).append(value)
    return paths


def touches(path: str, other: str) -> bool:
    """Say whether two dotted paths are equal, or one leads to the other."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _value_label(value: JsonValue) -> str:
    text = str(value) if isinstance(value, (str, int, float, bool)) else json.dumps(value)
    return (
        text
        if len(text) <= _LONGEST_LABEL
        else text[: _LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def _distinct(labels: Iterable[str]) -> Iterator[str]:
    """Number the labels that stand twice, which long values do when they are cut."""
    seen: set[str] = set()
    for label in labels:
        numbered = (f"{label} #{number}" for number in itertools.count(2))
        unique = next(one for one in itertools.chain([label], numbered) if one not in seen)
        seen.add(unique)
        yield unique


def label_of(coordinates: Mapping[str, str]) -> str:
    """Say what varies at a grid point: ``afa_cd · arrivals=uniform``.

    Args:
        coordinates: Axis name -> label of the value on that axis.

    Returns:
        The label; ``base`` when nothing varies.
    """
    if not coordinates:
        return "base"
    return _SEPARATOR.join(_named(name, label) for name, label in coordinates.items())


def _named(axis: str, label: str) -> str:
    *above, last = axis.split(".")
    short = above[-1] if above and last in _TAGS else last
    return label if short in {"algorithm", "strategy"} else f"{short}={label}"
