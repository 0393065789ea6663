"""A scaling study: strategies x sizes x repeats; it is turned into an ordinary study.

A training keeps its work per device (weak) or the batch of its train steps (strong) while the
number of ranks grows; a federated experiment grows in the returns m of a round and in the local
steps K of a return.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_serializer, model_validator

from configs.base import Record, Whole, raise_faults
from configs.federated import FederatedExperiment
from configs.launchers import LauncherConfig, LocalLauncherConfig
from configs.scaling_faults import faults_together
from configs.scaling_points import (
    RANKS,
    RETURNS_AND_STEPS,
    SEED,
    SERVER_RATE,
    STRATEGY,
    Measure,
    Published,
    Scaling,
    grows_with_steps,
    mean_local_steps,
)
from configs.study import Axis, Experiment, Overrides, Study
from configs.training import TrainingExperiment

_MOST_SIZES = 100


class ScalingStudy(Record):
    """Strategies over sizes, measured, predicted, or both."""

    model_config = ConfigDict(title="Whole scaling study")

    kind: Literal["scaling"] = Field(description="Tells this file from a study with a grid.")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Name of the study: letters, digits, dot, dash, underscore; at most 63, the "
        "first a letter or digit.",
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
        description="Federated: the server's effective step grows like the root of m K, as the "
        "theorems of linear speed-up have it (the rate of an algorithm that does not divide by K "
        "is divided by it; area needs constant), or its rate stays.",
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
        raise_faults("ScalingStudy", faults_together(self))
        return self

    def study(self) -> Study:
        """Return the study that it stands for: a grid, and the section that tells what it is for.

        The seed is the outermost axis: what drifts on the machine while the study runs then falls
        on all strategies and sizes alike.
        """
        return Study.model_validate(self.raw_study())

    def raw_study(self) -> dict[str, Any]:
        """Return that study as it would be written, whether or not it is valid."""
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
                    overrides[SERVER_RATE] = _root_rate(base, returns, steps)
                axis[f"{returns} x {_steps_of(base) if steps is None else steps}"] = overrides
        return axis


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


def _root_rate(base: FederatedExperiment, returns: int, steps: int | None) -> float:
    """Return the server's rate at which its effective step has grown like the root of m K.

    Args:
        base: The experiment whose rate it is.
        returns: m.
        steps: K; None for that of the base.
    """
    algorithm = base.algorithm
    more_steps = 1.0 if steps is None else steps / (mean_local_steps(base) or 1.0)
    rate = algorithm.server_lr * math.sqrt(returns / algorithm.collect * more_steps)
    if grows_with_steps(algorithm):
        rate /= more_steps
    return float(f"{rate:.6g}")


def _steps_of(base: FederatedExperiment) -> str:
    steps = base.local_steps
    return str(getattr(steps, "steps", steps.kind)) if base.arrivals.kind != "slurm" else "K"
