"""What a study compares over sizes: the ``scaling`` section of a study."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from configs.algorithms import Algorithm, ServerAdam, ServerAmsgrad
from configs.arrivals import ConstantSteps, PerWorkerSteps, UniformSteps
from configs.base import Fault, PositiveFloat, Record, Whole, raise_faults
from configs.federated import FederatedExperiment
from configs.scripts import refused
from configs.training import TrainingExperiment

STRATEGY, RANKS, RETURNS_AND_STEPS, SEED = "strategy", "ranks", "m x K", "seed"
"""Axes of the grid of a scaling study."""
SERVER_RATE = "algorithm.server_lr"


class UpTo(Record):
    """Measure the small points only."""

    up_to: Whole = Field(ge=1, description="Largest number of ranks that is measured.")


def _known_measure(value: Any) -> Any:  # noqa: ANN401  raw YAML: any type arrives here
    if value in ("all", "none") or isinstance(value, (dict, UpTo)):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return {"up_to": value}
    raise refused(f"{value!r} is unknown; use all, none, or {{up_to: RANKS}}")


Measure = Annotated[Literal["all", "none"] | UpTo, BeforeValidator(_known_measure)]
"""Which points run; the others are predicted only."""


class Published(Record):
    """A number that somebody has published, to be shown beside ours."""

    quantity: Literal["tflops", "ratio", "efficiency"] = Field(
        description="tflops: of one device. ratio: of TFLOPS per device over those of another "
        "strategy at this size. efficiency: TFLOPS per device over those of the smallest size."
    )
    strategy: str = Field(description="Label of the strategy.")
    over: str | None = Field(default=None, description="Of a ratio: the other strategy.")
    size: Whole = Field(ge=1, description="Devices.")
    value: PositiveFloat = Field(description="What was published.")
    source: str = Field(min_length=1, description="Where.")

    @model_validator(mode="after")
    def _names_what_it_compares(self) -> "Published":
        if (self.over is not None) != (self.quantity == "ratio"):
            found = f"{self.over!r} with quantity {self.quantity}"
            message = f"{found}; a ratio, and nothing else, names the other strategy"
            raise_faults("Published", [Fault(path="over", message=message)])
        return self


class Scaling(Record):
    """What the points of a study have in common with one curve over sizes."""

    mode: Literal["weak", "strong"] = Field(
        default="weak", description="Work per device stays, or the batch of a train step does."
    )
    strategy_axis: str | None = Field(
        default=None, description="Axis of the grid whose values are compared; None for one curve."
    )
    size_axis: str = Field(description="Axis of the grid whose values are the sizes.")
    measure: Measure = Field(
        default="all", description="Which points run: all, none, or up_to a number of ranks."
    )
    reuse: bool = Field(
        default=True,
        description="Take over points that an earlier study in the same directory has finished.",
    )
    published: tuple[Published, ...] = Field(default=(), description="Numbers of others.")

    def is_asked_for(self, experiment: FederatedExperiment | TrainingExperiment) -> bool:
        """Say whether a point is to be measured.

        Args:
            experiment: The point.
        """
        if isinstance(self.measure, UpTo):
            return size_of(experiment) <= self.measure.up_to
        return self.measure == "all"

    def faults(self, axes: list[str]) -> Iterator[Fault]:
        """Find axes that the grid does not have.

        Args:
            axes: Those that it has.

        Yields:
            The faults, with paths in this section.
        """
        known = ", ".join(axes) or "none"
        for field in ("strategy_axis", "size_axis"):
            name = getattr(self, field)
            if name is not None and name not in axes:
                message = f"'{name}' is no axis of the grid; known: {known}"
                yield Fault(path=field, message=message, related=("grid",))


def size_of(experiment: FederatedExperiment | TrainingExperiment) -> float:
    """Return the size of a point.

    Args:
        experiment: The point.

    Returns:
        Ranks; of federated averaging m K, the local steps of one round.
    """
    if isinstance(experiment, TrainingExperiment):
        return experiment.ranks
    return experiment.algorithm.collect * (mean_local_steps(experiment) or 1.0)


def mean_local_steps(experiment: FederatedExperiment) -> float | None:
    """Return K of a configuration; None if it follows from the clock, or from real workers.

    Args:
        experiment: The point.
    """
    if experiment.arrivals.kind == "slurm":
        return None
    steps = experiment.local_steps
    if isinstance(steps, ConstantSteps):
        return float(steps.steps)
    if isinstance(steps, UniformSteps):
        return (steps.low + steps.high) / 2
    if isinstance(steps, PerWorkerSteps):
        return float(sum(steps.steps) / len(steps.steps))
    return None


def grows_with_steps(algorithm: Algorithm) -> bool:
    """Say whether the server moves K times as far for K times the local steps, its rate being one.

    Args:
        algorithm: The server's.

    Returns:
        False where changes are divided by K, and with Adam and AMSGrad, whose step does not depend
        on the size of the direction.
    """
    is_adaptive = isinstance(algorithm.server, (ServerAdam, ServerAmsgrad))
    return not algorithm.is_normalised and not is_adaptive
