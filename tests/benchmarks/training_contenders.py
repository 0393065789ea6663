"""Who is measured against whom in the benchmarks of training, and how their times are told."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from configs.training import TrainingExperiment
from tests.benchmarks.training_node import Measured
from tests.benchmarks.training_world import World

_BIT_PER_BYTE = 8


@dataclass(frozen=True)
class Contender:
    """An engine with a partition and a transport.

    Attributes:
        name: For the table.
        engine: ``ours``, ``deepspeed`` or ``fsdp2``.
        partition: Name of a row.
        transport: Name, or fields, of a transport.
    """

    name: str
    engine: str
    partition: str
    transport: str | tuple[tuple[str, str], ...] = "full"

    def experiment(self, base: Mapping[str, object], accumulation: int) -> TrainingExperiment:
        """Return what is trained.

        Args:
            base: Fields that all contenders share.
            accumulation: Micro-batches.
        """
        transport = self.transport if isinstance(self.transport, str) else dict(self.transport)
        own = {
            "kind": "training",
            "engine": self.engine,
            "partition": self.partition,
            "transport": transport,
            "accumulation": accumulation,
        }
        return TrainingExperiment.model_validate({**base, **own})


@dataclass(frozen=True)
class Times:
    """Train steps of a contender, of all its runs.

    Attributes:
        runs: What was measured.
        tokens_per_step: Of one train step.
    """

    runs: Sequence[Measured]
    tokens_per_step: int

    @property
    def step_s(self) -> float:
        """Median time of a train step: that of the medians of the runs."""
        return statistics.median(self._medians)

    @property
    def spread_s(self) -> tuple[float, float]:
        """Median of the fastest run, and of the slowest."""
        return min(self._medians), max(self._medians)

    @property
    def link_bytes(self) -> float:
        """Bytes a train step through a node's link, in the direction that has more."""
        return statistics.median(max(run.received_bytes, run.sent_bytes) for run in self.runs)

    @property
    def cpu_s(self) -> float:
        """Processor time of a rank, a train step; other work on the machine hardly changes it."""
        return statistics.median(run.cpu_s for run in self.runs)

    @property
    def counted_bytes(self) -> Mapping[str, int]:
        """What the engine says that a rank received in a train step, by level."""
        return self.runs[0].counted_bytes

    @property
    def tokens_per_s(self) -> float:
        """Of all ranks together."""
        return self.tokens_per_step / self.step_s

    @property
    def _medians(self) -> list[float]:
        return [statistics.median(run.step_s) for run in self.runs]

    def link_s(self, rate_mbit: float) -> float:
        """Return how long its bytes take on the link alone: no train step can be faster.

        Args:
            rate_mbit: Of the link.
        """
        return self.link_bytes * _BIT_PER_BYTE / rate_mbit / 1e6


def measure_in_turns(
    world: World,
    contenders: Sequence[Contender],
    base: Mapping[str, object],
    *,
    accumulation: int,
    rounds: int,
    steps: int,
    once: Collection[Contender] = (),
) -> dict[Contender, Times]:
    """Measure contenders one after the other, again and again: what disturbs one, disturbs all.

    Args:
        world: Where.
        contenders: Who.
        base: Fields of the experiment that all share.
        accumulation: Micro-batches.
        rounds: How often each is started anew.
        steps: Train steps measured each time, after one for warming up.
        once: Who is measured in the first round only.

    Returns:
        Their times.
    """
    runs: dict[Contender, list[Measured]] = {contender: [] for contender in contenders}
    experiments = {one: one.experiment(base, accumulation) for one in contenders}
    for number in range(rounds):
        for contender in (one for one in contenders if number == 0 or one not in once):
            measured = world.measure(experiments[contender], warmup_steps=1, steps=steps)
            runs[contender].append(measured)
    return {one: Times(runs[one], experiments[one].tokens_per_step) for one in contenders}
