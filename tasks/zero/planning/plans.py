"""What the planner is asked, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.base import Fault
from configs.training import TrainingExperiment
from tasks.runtime.prediction import Prediction
from tasks.zero.planning.space import PREFETCHES

NOTABLE = 1e-2
"""Share of the step time on the worse network, which is a rough one, that is told."""
_TERA = 1e12


class PlanError(ValueError):
    """Nothing can be planned.

    Attributes:
        faults: Why, and what would do; never empty.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


@dataclass(frozen=True)
class Wish:
    """What is to be planned.

    Attributes:
        base: Model, machine, devices, sequence, type and engine; what the planner chooses is not
            looked at.
        batch_tokens: Tokens of a train step; the nearest that the devices can share evenly.
        memory_bytes: What a training may use of a device.
        is_exact: Whether nothing may be rounded on the wire.
        num_best: Partitions to list.
        prefetches: Visits that weights may be gathered ahead, each from 0; none at all is taken
            besides, where nothing else fits.
    """

    base: TrainingExperiment
    batch_tokens: int
    memory_bytes: int
    is_exact: bool = False
    num_best: int = 10
    prefetches: tuple[int, ...] = PREFETCHES

    @property
    def sequences(self) -> int:
        """Of each device in a train step: the nearest whole number, and 1 at least."""
        return max(1, round(self.batch_tokens / (self.base.ranks * self.base.sequence)))


@dataclass(frozen=True)
class Choice:
    """One candidate.

    Attributes:
        experiment: The training as it would run.
        step_s: Predicted time of a train step.
        memory_bytes: Predicted of a device.
        worse_s: The time on a worse network, see ``planning.worse_network``; None where it was not
            asked for, or the job crosses no link.
    """

    experiment: TrainingExperiment
    step_s: float
    memory_bytes: int
    worse_s: float | None = None

    @property
    def at_worst_s(self) -> float:
        """Time on the worse network; where that was not asked for, on the network of the file."""
        return self.step_s if self.worse_s is None else self.worse_s

    @property
    def tokens_per_s(self) -> float:
        """Of all ranks together."""
        return self.experiment.tokens_per_step / self.step_s

    @property
    def tflops(self) -> float:
        """Model TFLOPS of one device."""
        one = self.experiment
        sequences = one.micro_batch * one.accumulation
        return sequences * one.model.model_flops(one.sequence) / self.step_s / _TERA


@dataclass(frozen=True)
class NamedChoice:
    """The best of a row of the table of partitions, over the named formats.

    Attributes:
        names: Of the row, and of those that are the same on this machine.
        transport: Name of the formats.
        choice: The training.
        prediction: What the cost model says of it.
    """

    names: tuple[str, ...]
    transport: str
    choice: Choice
    prediction: Prediction


@dataclass(frozen=True)
class Plan:
    """What the search has found.

    Attributes:
        best: The fastest; of what differs by less than 0.1 %, the one that rounds least, then the
            one that needs least memory. Never slower than a named row.
        prediction: What the cost model says of it.
        listed: The best of each of the best partitions, from the fastest.
        rows: The named rows that fit, from the fastest.
        too_large: Names of those that do not.
        front: The best one, then, of what was timed and needs less memory, what nothing beats in
            both speed and memory, from the fastest. What differs by less than 0.1 % from the best
            one is as fast as it.
        num_partitions: How many nest with the machine.
        num_candidates: How many these are with formats and passes.
        num_fitting: How many of them fit into the memory.
        num_timed: How many were timed.
        possible_gain: Share by which something that was not timed can be faster, at most.
        worse_levels: Levels whose links are worse on the worse network, from the innermost; none
            where the job crosses no link.
    """

    best: Choice
    prediction: Prediction
    listed: list[Choice]
    rows: list[NamedChoice]
    too_large: list[str]
    front: list[Choice]
    num_partitions: int
    num_candidates: int
    num_fitting: int
    num_timed: int
    possible_gain: float
    worse_levels: tuple[str, ...] = ()

    def best_when_worse(self) -> Choice:
        """Return what is fastest on the worse network, of the best one, the rows and the list.

        The best one itself, where nothing is faster there by more than ``NOTABLE``.
        """
        others = [*(row.choice for row in self.rows), *self.listed]
        return fastest_when_worse(self.best, others)


def fastest_when_worse(first: Choice, others: Sequence[Choice]) -> Choice:
    """Return what is fastest on the worse network, or what is first here and as good there.

    Args:
        first: What is first here.
        others: What may be faster there.
    """
    fastest = min([first, *others], key=lambda one: one.at_worst_s)
    return first if first.at_worst_s <= (1 + NOTABLE) * fastest.at_worst_s else fastest
