"""Points of a scaling study: what repeats have in common, beside what was predicted.

A point is one strategy at one size; its runs differ in their seed only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from configs.measuring import TOO_LARGE
from configs.placement import nodes_and_tasks
from configs.scaling_points import Scaling, size_of
from configs.study import Study
from configs.training import TrainingExperiment
from tasks.runtime.prediction import Prediction
from tasks.tracking.axes import SEED_AXES
from tasks.tracking.costs import read_costs, total
from tasks.tracking.history import RunHistory, RunState
from tasks.tracking.rows import Row

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Spread:
    """One measure over repeats.

    Attributes:
        middle: Median.
        low: Smallest.
        high: Largest.
        count: Repeats.
    """

    middle: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Cost:
    """What one run costs.

    Attributes:
        node_hours: Node-hours, of a local run those of one node; None where unknown.
        energy_j: Joules; None where unknown.
        is_accounted: Whether the node-hours are Slurm's; else they are wall time times nodes.
        is_energy_measured: Whether the energy is Slurm's; else it is predicted.
    """

    node_hours: float | None
    energy_j: float | None
    is_accounted: bool = False
    is_energy_measured: bool = False


@dataclass(frozen=True)
class ScalingPoint:
    """One strategy at one size.

    Attributes:
        strategy: Its label.
        size: Devices of a training; m K of federated averaging.
        nodes: Nodes of the machine.
        state: Of its runs, the one that needs most attention.
        num_runs: Runs with different seeds.
        measured: Name of a measure -> its spread over the finished runs; empty without any.
        split_s: Cause -> seconds of a train step, mean over the finished runs.
        cost: Of one run: the mean of those that finished, or predicted.
        prediction: What the cost model says; None where it was not asked or knows too little.
        reason: Why no run has a job; empty if one has.
        fits: Whether a device has the memory; what does not fit begins no curve.
        reused_from: Names of earlier studies whose results stand here.
        levels: Levels of its machine, from the innermost to the cluster.
    """

    strategy: str
    size: float
    nodes: int
    state: RunState
    num_runs: int
    measured: Mapping[str, Spread]
    split_s: Mapping[str, float]
    cost: Cost
    prediction: Prediction | None
    reason: str
    fits: bool
    reused_from: tuple[str, ...]
    levels: tuple[str, ...] = ()

    def spread(self, measure: str) -> Spread | None:
        """Return the spread of a measure; None if no run has measured it.

        Args:
            measure: Such as ``tflops``.
        """
        return self.measured.get(measure)

    @property
    def prediction_error(self) -> float | None:
        """Predicted over measured time of a train step, less one; None without both."""
        step_s = self.spread("step_s")
        if step_s is None or self.prediction is None or not step_s.middle:
            return None
        return self.prediction.step_s / step_s.middle - 1


_WORST_FIRST: tuple[RunState, ...] = (
    "failed",
    "running",
    "interrupted",
    "waiting",
    "finished",
    "predicted",
    "damaged",
)


def scaling_points(
    study: Study, scaling: Scaling, runs: Sequence[tuple[RunHistory, Row]]
) -> list[ScalingPoint]:
    """Put the runs of a scaling study together.

    Args:
        study: The study.
        scaling: Its section.
        runs: Its runs, each with its row, in the order of the grid.

    Returns:
        The points, by strategy in the order of the grid, then by size.
    """
    groups: dict[tuple[str, float], list[tuple[RunHistory, Row]]] = {}
    for history, row in runs:
        key = (strategy_of(scaling, history), size_of(history.job.experiment))
        groups.setdefault(key, []).append((history, row))
    strategies = list(dict.fromkeys(strategy for strategy, _ in groups))
    ordered = sorted(groups, key=lambda key: (strategies.index(key[0]), key[1]))
    is_local = study.launcher.kind == "local"
    return [_point(*key, groups[key], is_local=is_local) for key in ordered]


def strategy_of(scaling: Scaling, history: RunHistory) -> str:
    """Return the label of a run's strategy; what else varies, if anything, is part of it.

    Args:
        scaling: The study's section.
        history: The run.
    """
    job = history.job
    apart = {scaling.size_axis, *SEED_AXES}
    labels = [label for axis, label in job.coordinates.items() if axis not in apart]
    if labels:
        return ", ".join(labels)
    experiment = job.experiment
    if isinstance(experiment, TrainingExperiment):
        return experiment.partition_name
    return experiment.algorithm.name


def _point(
    strategy: str, size: float, runs: Sequence[tuple[RunHistory, Row]], *, is_local: bool
) -> ScalingPoint:
    finished = [(history, row) for history, row in runs if row.state == "finished"]
    values: dict[str, list[float]] = {}
    splits: list[Mapping[str, float]] = []
    for _, row in finished:
        if row.training is not None:
            splits.append(row.training.time_split())
            for name, value in row.training.metrics().items():
                if value is not None:
                    values.setdefault(name, []).append(value)
    causes = dict.fromkeys(cause for split in splits for cause in split)
    states = {row.state for _, row in runs}
    first, row = runs[0]
    nodes = nodes_and_tasks(first.job.experiment)[0]
    reused = dict.fromkeys(row.reused_from for _, row in finished if row.reused_from)
    return ScalingPoint(
        strategy=strategy,
        size=size,
        nodes=nodes,
        state=next(state for state in _WORST_FIRST if state in states),
        num_runs=len(runs),
        measured={name: _spread(found) for name, found in values.items()},
        split_s={
            cause: sum(split.get(cause, 0.0) for split in splits) / len(splits) for cause in causes
        },
        cost=_mean_cost([cost_of(history, row, is_local=is_local) for history, row in finished])
        if finished
        else predicted_cost(first),
        prediction=first.prediction,
        reason=row.predicted_only,
        fits=not row.predicted_only.startswith(TOO_LARGE),
        reused_from=tuple(reused),
        levels=tuple(_levels(first)),
    )


def _levels(history: RunHistory) -> list[str]:
    experiment = history.job.experiment
    if not isinstance(experiment, TrainingExperiment):
        return []
    return experiment.topology.level_names()


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.median(values)), min(values), max(values), len(values))


def cost_of(history: RunHistory, row: Row, *, is_local: bool) -> Cost:
    """Return what a finished run cost: as Slurm accounts for it, where it does.

    Args:
        history: The run.
        row: Its row.
        is_local: Whether it ran on this machine, which is one node.

    Returns:
        The cost; energy that nobody has measured is what the cost model says of its train steps.
    """
    accounted = total(read_costs(history.directory))
    nodes = 1 if is_local else nodes_and_tasks(history.job.experiment)[0]
    from_wall = None if row.wall_s is None else nodes * row.wall_s / _HOUR_S
    node_hours = accounted.node_hours if accounted else None
    energy_j = accounted.energy_j if accounted else None
    return Cost(
        node_hours=from_wall if node_hours is None else node_hours,
        energy_j=predicted_cost(history).energy_j if energy_j is None else energy_j,
        is_accounted=node_hours is not None,
        is_energy_measured=energy_j is not None,
    )


def predicted_cost(history: RunHistory) -> Cost:
    """Return what the cost model says a run costs: its train steps, without start and end.

    Args:
        history: The run.
    """
    prediction = history.prediction
    if prediction is None:
        return Cost(None, None)
    experiment = history.job.experiment
    nodes, _ = nodes_and_tasks(experiment)
    energy_j = prediction.energy_j
    return Cost(
        node_hours=nodes * experiment.num_steps * prediction.step_s / _HOUR_S,
        energy_j=None if energy_j is None else experiment.num_steps * energy_j,
    )


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(
        node_hours=_mean([cost.node_hours for cost in costs]),
        energy_j=_mean([cost.energy_j for cost in costs]),
        is_accounted=all(cost.is_accounted for cost in costs),
        is_energy_measured=all(cost.is_energy_measured for cost in costs),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def measured_tflops(point: ScalingPoint) -> float | None:
    """Return the measured TFLOPS of one device, the median over repeats."""
    spread = point.spread("tflops")
    return spread.middle if spread else None


def predicted_tflops(point: ScalingPoint) -> float | None:
    """Return the predicted TFLOPS of one device; None for what does not fit."""
    return point.prediction.tflops if point.prediction and point.fits else None


def efficiencies(
    points: Sequence[ScalingPoint], speed: Callable[[ScalingPoint], float | None]
) -> dict[tuple[str, float], float]:
    """Compare the speed of a device with its speed at the smallest size.

    In weak and in strong scaling alike: N devices do N times the work of one in a second where the
    efficiency is 1.

    Args:
        points: The points.
        speed: Of one device at a point, such as ``measured_tflops``.

    Returns:
        Strategy and size -> efficiency; it is 1 at the strategy's size of ``base_sizes``.
    """
    base_of = base_sizes(points)
    found: dict[tuple[str, float], float] = {}
    base = {
        point.strategy: speed(point)
        for point in points
        if point.size == base_of.get(point.strategy)
    }
    for point in points:
        value, reference = speed(point), base.get(point.strategy)
        if value and reference:
            found[point.strategy, point.size] = value / reference
    return found


def base_sizes(points: Sequence[ScalingPoint]) -> dict[str, float]:
    """Return the size that each strategy's efficiencies are compared with, measured or predicted.

    Args:
        points: The points.

    Returns:
        Strategy -> the smallest size that was measured; where none was, that was predicted.
    """
    found: dict[str, float] = {}
    for speed in (measured_tflops, predicted_tflops):
        known = [point for point in points if speed(point)]
        smallest = {point.strategy: point.size for point in sorted(known, key=_size, reverse=True)}
        found = smallest | found
    return found


def _size(point: ScalingPoint) -> float:
    return point.size
