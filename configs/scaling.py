"""A scaling study: strategies x sizes x repeats; it is turned into an ordinary study.

A training keeps its work per device (weak) or the batch of its train steps (strong) while the
number of ranks grows; a federated experiment grows in the returns m of a round and in the local
steps K of a return.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_serializer, model_validator

from configs.base import Fault, Record, Whole, raise_faults
from configs.faults import faults_in
from configs.federated import FederatedExperiment
from configs.launchers import LauncherConfig, LocalLauncherConfig
from configs.overrides import OverrideError, set_path
from configs.scaling_points import Measure, Published, Scaling, size_of
from configs.study import Axis, Experiment, Overrides, Study
from configs.training import TrainingExperiment

STRATEGY, RANKS, RETURNS_AND_STEPS, SEED = "strategy", "ranks", "m x K", "seed"
"""Axes of the grid."""
SET_BY_SIZES = {
    "training": ("ranks",),
    "federated": ("algorithm.collect", "local_steps"),
}
"""What the sizes set, by kind of the experiment; in strong scaling the batch, too."""
_BATCH = ("micro_batch", "accumulation")
_RATE = "algorithm.server_lr"
_FIELDS = {STRATEGY: "strategies", RANKS: "sizes", RETURNS_AND_STEPS: "sizes", SEED: "repeats"}
_MOST_SIZES = 100
_MOST_DIVISORS = 12


class ScalingStudy(Record):
    """Strategies over sizes, measured, predicted, or both."""

    model_config = ConfigDict(title="Whole scaling study")

    kind: Literal["scaling"] = Field(description="Tells this file from a study with a grid.")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the study: letters, digits, dot, dash, underscore.",
    )
    description: str = Field(default="", description="What the study asks, in a sentence or two.")
    experiment: Experiment = Field(description="The base; the sizes set its ranks, or m and K.")
    launcher: LauncherConfig = Field(
        default=LocalLauncherConfig(),
        description="Where the jobs run; nodes and tasks follow from the ranks of each point.",
    )
    strategies: dict[str, Overrides] = Field(
        default={}, description="What is compared: a label, and what it overrides in the base."
    )
    sizes: tuple[Whole, ...] = Field(
        min_length=1,
        max_length=_MOST_SIZES,
        description="Ranks of a training; returns m of a round of federated averaging.",
    )
    local_steps: tuple[Whole, ...] = Field(
        default=(),
        max_length=_MOST_SIZES,
        description="Federated: local steps K of a return. Default: those of the base.",
    )
    server_rate: Literal["sqrt", "constant"] = Field(
        default="sqrt",
        description="Federated: the server's rate grows like the root of m K, as the theorems of "
        "linear speed-up have it, or stays.",
    )
    mode: Literal["weak", "strong"] = Field(
        default="weak",
        description="Trainings: weak keeps the work of a rank; strong keeps the batch of a train "
        "step, which is the base's at the smallest size.",
    )
    repeats: Whole = Field(
        default=1, ge=1, le=100, description="Runs of each point, with seeds from the base's on."
    )
    measure: Measure = Field(
        default="all",
        description="Which points run: all, none, or up_to a number of ranks; the others are "
        "predicted only, like those that do not fit in memory.",
    )
    reuse: bool = Field(
        default=True,
        description="Take over points that an earlier study in the same directory has finished.",
    )
    published: tuple[Published, ...] = Field(
        default=(), description="Numbers of others, shown beside ours."
    )

    @field_serializer("experiment")
    def _as_written(self, experiment: Experiment) -> dict[str, Any]:
        """Leave out what was not set: overrides act on the base as it was written."""
        return experiment.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _has_ranks(cls, raw: Any) -> Any:  # noqa: ANN401  raw YAML
        """Give the base the ranks that it does not name, so that it is valid on its own."""
        if not isinstance(raw, Mapping):
            return raw
        experiment, sizes = raw.get("experiment"), raw.get("sizes")
        if not isinstance(experiment, Mapping) or experiment.get("kind") != "training":
            return raw
        if "ranks" in experiment:
            return raw
        listed = sizes if isinstance(sizes, (list, tuple)) else ()
        known = sorted(size for size in listed if isinstance(size, int) and size > 0)
        candidates = [{**experiment, "ranks": ranks} for ranks in (*known, 1)]
        chosen = next(filter(_is_training, [*candidates[:-1], experiment, candidates[-1]]), None)
        return {**raw, "experiment": chosen or candidates[0]}

    @model_validator(mode="after")
    def _expands(self) -> "ScalingStudy":
        faults = list(self._faults())
        strong = list(self._faults_of_strong())
        unusable = {*_FIELDS.values(), "local_steps"}
        if not any(fault.path.partition(".")[0] in unusable for fault in faults):
            checked = self.model_copy(update={"mode": "weak"}) if strong else self
            faults += checked._faults_of_study()
        raise_faults("ScalingStudy", faults + strong)
        return self

    def study(self) -> Study:
        """Return the study that it stands for: a grid, and the section that tells what it is for.

        The seed is the outermost axis: what drifts on the machine while the study runs then falls
        on all strategies and sizes alike.
        """
        return Study.model_validate(self._raw_study())

    def _raw_study(self) -> dict[str, Any]:
        base, seed = self.experiment, self.experiment.seed
        grid: dict[str, Axis] = {}
        if self.repeats > 1:
            grid[SEED] = [seed + number for number in range(self.repeats)]
        if self.strategies:
            grid[STRATEGY] = self.strategies
        if isinstance(base, TrainingExperiment):
            size_axis, grid[RANKS] = RANKS, self._sizes_of_training(base)
        else:
            size_axis, grid[RETURNS_AND_STEPS] = RETURNS_AND_STEPS, self._sizes_of_federated(base)
        scaling = Scaling(
            mode=self.mode,
            strategy_axis=STRATEGY if self.strategies else None,
            size_axis=size_axis,
            measure=self.measure,
            reuse=self.reuse,
            published=self.published,
        )
        return {
            "name": self.name,
            "description": self.description,
            "experiment": base.model_dump(mode="json", exclude_unset=True),
            "launcher": self.launcher.model_dump(mode="json", exclude_unset=True),
            "grid": grid,
            "scaling": scaling.model_dump(mode="json"),
        }

    def _sizes_of_training(self, base: TrainingExperiment) -> Axis:
        if self.mode == "weak":
            return list(self.sizes)
        return {
            str(ranks): {"ranks": ranks} | strong_batch(base, min(self.sizes), ranks)
            for ranks in self.sizes
        }

    def _sizes_of_federated(self, base: FederatedExperiment) -> Axis:
        axis: dict[str, Overrides] = {}
        for returns in self.sizes:
            for steps in self.local_steps or (None,):
                overrides: Overrides = {"algorithm.collect": returns}
                if steps is not None:
                    overrides["local_steps"] = {"kind": "constant", "steps": steps}
                if self.server_rate == "sqrt":
                    size = returns * (1 if steps is None else steps)
                    per = base.algorithm.collect if steps is None else size_of(base)
                    rate = base.algorithm.server_lr * math.sqrt(size / per)
                    overrides[_RATE] = float(f"{rate:.6g}")
                axis[f"{returns} x {_steps_of(base) if steps is None else steps}"] = overrides
        return axis

    def _faults(self) -> Iterator[Fault]:
        """Find what is wrong before there is a grid."""
        for field in ("sizes", "local_steps"):
            values = getattr(self, field)
            if small := [value for value in values if value < 1]:
                yield Fault(path=field, message=f"{small[0]} is none; use 1 or more")
            if twice := [value for value in values if values.count(value) > 1]:
                yield Fault(path=field, message=f"{twice[0]} stands twice; remove one")
        if isinstance(self.experiment, TrainingExperiment):
            yield from self._faults_of_training()
        else:
            yield from self._faults_of_federated()
        yield from self._faults_of_strategies()
        yield from self._faults_of_published()

    def _faults_of_training(self) -> Iterator[Fault]:
        for field in ("local_steps", "server_rate"):
            if field in self.model_fields_set and getattr(self, field) not in ((), "sqrt"):
                message = "a training has none; it is of federated studies. Remove it"
                yield Fault(path=field, message=message)

    def _faults_of_strong(self) -> Iterator[Fault]:
        base = self.experiment
        if self.mode == "weak" or not isinstance(base, TrainingExperiment) or min(self.sizes) < 1:
            return
        first = min(self.sizes)
        batch = first * base.micro_batch * base.accumulation
        if left := [size for size in self.sizes if batch % size]:
            per_node = base.topology.ranks_per_node
            divisors = [
                n for n in _divisors(batch) if n >= first and (n <= per_node or n % per_node == 0)
            ]
            some = ", ".join(map(str, divisors[:_MOST_DIVISORS]))
            more = ", ..." if len(divisors) > _MOST_DIVISORS else ""
            yield Fault(
                path="sizes",
                message=(
                    f"{', '.join(map(str, left))} do not divide the {batch} sequences of a train "
                    f"step ({first} ranks x micro_batch {base.micro_batch} x accumulation "
                    f"{base.accumulation}), which strong scaling keeps; use {some}{more}, or "
                    "another accumulation"
                ),
                related=("experiment.micro_batch", "experiment.accumulation"),
            )

    def _faults_of_federated(self) -> Iterator[Fault]:
        if self.mode == "strong":
            message = "strong keeps the batch of a train step, and federated averaging has none; "
            yield Fault(path="mode", message=f"{message}use weak")
        if self.measure != "all":
            message = "federated averaging is not predicted, so every point runs; use all"
            yield Fault(path="measure", message=message)

    def _faults_of_strategies(self) -> Iterator[Fault]:
        taken = [*SET_BY_SIZES[self.experiment.kind]]
        if self.mode == "strong":
            taken += _BATCH
        if self.experiment.kind == "federated" and self.server_rate == "sqrt":
            taken.append(_RATE)
        if self.repeats > 1:
            taken.append(SEED)
        for label, overrides in self.strategies.items():
            for path, value in overrides.items():
                if clash := [one for one in taken if _sets(path, value, one)]:
                    field = "repeats" if clash[0] == SEED else "sizes"
                    remedy = "use server_rate: constant" if clash[0] == _RATE else "remove it here"
                    message = f"sets {clash[0]}, which the {field} set; {remedy}"
                    yield Fault(path=f"strategies.{label}", message=message)

    def _faults_of_published(self) -> Iterator[Fault]:
        for number, one in enumerate(self.published):
            for field, label in (("strategy", one.strategy), ("over", one.over)):
                if label is not None and label not in self.strategies:
                    known = ", ".join(self.strategies) or "none"
                    message = f"'{label}' is no strategy; known: {known}"
                    yield Fault(path=f"published.{number}.{field}", message=message)
            if one.size not in self.sizes:
                known = ", ".join(map(str, self.sizes))
                message = f"{one.size} is none of the sizes {known}; add it there"
                yield Fault(path=f"published.{number}.size", message=message)

    def _faults_of_study(self) -> list[Fault]:
        """Find what is wrong with the points, said in terms of this file."""
        raw = self._raw_study()
        alone = self._faults_of_each_strategy(raw["experiment"])
        if alone:
            return alone
        return [
            Fault(path=_own_path(fault.path), message=fault.message)
            for fault in faults_in(Study, raw)
        ]

    def _faults_of_each_strategy(self, base: dict[str, Any]) -> list[Fault]:
        """Find keys that are no fields, each at its strategy and not at all of its points."""
        faults = []
        for label, overrides in self.strategies.items():
            raw = copy.deepcopy(base)
            if isinstance(self.experiment, TrainingExperiment):
                raw["ranks"] = min(self.sizes)
            try:
                for path, value in overrides.items():
                    set_path(raw, path, value)
                type(self.experiment).model_validate(raw)
            except OverrideError as error:
                faults.append(Fault(path=f"strategies.{label}", message=str(error)))
            except ValidationError:
                faults += [
                    Fault(path=f"strategies.{label}", message=str(fault))
                    for fault in faults_in(type(self.experiment), raw)
                    if fault.path != "ranks"  # is of the sizes, and said there
                ]
        return faults


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def _is_training(raw: Mapping[str, Any]) -> bool:
    try:
        TrainingExperiment.model_validate(raw)
    except ValidationError:
        return False
    return True


def strong_batch(base: TrainingExperiment, first: int, ranks: int) -> dict[str, Any]:
    """Divide the batch of a train step among more ranks: less accumulation, then smaller passes.

    Args:
        base: The training; its micro-batch and accumulation are those of the smallest size.
        first: The smallest size, ranks.
        ranks: Ranks that share the batch; they divide it.

    Returns:
        Overrides of ``micro_batch`` and ``accumulation`` whose product is what a rank has: the
        largest micro-batch that is not larger than the base's.
    """
    per_rank = first * base.micro_batch * base.accumulation // ranks
    micro_batch = next(n for n in range(base.micro_batch, 0, -1) if per_rank % n == 0)
    return {"micro_batch": micro_batch, "accumulation": per_rank // micro_batch}


def _sets(path: str, value: object, taken: str) -> bool:
    """Whether an override sets a field: by its name, below it, or with all of a record above it.

    A whole algorithm brings a server's rate of its own, named or not.
    """
    if path == taken or path.startswith(f"{taken}."):
        return True
    if not taken.startswith(f"{path}."):
        return False
    below = taken.removeprefix(f"{path}.")
    return taken == _RATE or (isinstance(value, Mapping) and below in value)


def _steps_of(base: FederatedExperiment) -> str:
    steps = base.local_steps
    return str(getattr(steps, "steps", steps.kind)) if base.arrivals.kind != "slurm" else "K"


def _own_path(path: str) -> str:
    """Say where in the file of a scaling study a fault of the grid comes from."""
    for axis, field in _FIELDS.items():
        if path == f"grid.{axis}" or path.startswith(f"grid.{axis}."):
            return f"{field}{path.removeprefix(f'grid.{axis}')}"
    return path.removeprefix("scaling.") or "sizes"
