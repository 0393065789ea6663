"""What runs beside the computation: it may be as late as it likes, and needs bounded memory."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest

from configs.training import TrainingExperiment
from models.gpt import build_gpt
from tasks.zero import collectives
from tasks.zero.engine import Engine
from tasks.zero.lanes import Exposed, ThreadLane
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import CPU, Trained, micro_batches, tiny, train

Ranks = Callable[[int], RankPool]


class LateLane(ThreadLane):
    """A lane that does nothing before somebody waits for it: what is not waited for, is missing.

    Attributes:
        num_held: Pieces of work that nobody has waited for yet, at most so far.
    """

    num_held = 0

    def __init__(self, name: str, exposed: Exposed) -> None:
        super().__init__(name, exposed)
        self._gates: list[threading.Event] = []

    def submit(self, work: Callable[[], None], level: str | None) -> Callable[[], None]:
        """See ``Lane``."""
        gate = threading.Event()
        self._gates.append(gate)
        self.num_held = max(self.num_held, sum(not gate.is_set() for gate in self._gates))

        def late() -> None:
            gate.wait()
            work()

        join, before = super().submit(late, level), self._gates[:]

        def release_and_join() -> None:
            for earlier in before:
                earlier.set()
            join()

        return release_and_join

    def close(self) -> bool:
        """See ``Lane``."""
        for gate in self._gates:
            gate.set()
        return super().close()


def train_late(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[Trained, dict[str, int]]:
    """Train on lanes that do everything as late as they may; return how much they held back."""
    lanes: dict[str, LateLane] = {}

    def make_lane(device: object, name: str, exposed: Exposed) -> LateLane:
        del device
        return lanes.setdefault(name, LateLane(name, exposed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "make_lane", make_lane)
        trained = train(rank, num_ranks, experiment)
    return trained, {name: lane.num_held for name, lane in lanes.items()}


@pytest.mark.parametrize(
    ("row", "transport"),
    [
        ("zero1", {"weights": "int8"}),
        ("zero3", {"refresh": "int8"}),
        ("zeropp", {"refresh": "int8", "reuse_secondary": True}),
        ("zero_topo", {"gradients": "int4", "refresh": "int8"}),
    ],
)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_nothing_is_used_before_it_is_there(
    ranks: Ranks, row: str, transport: dict[str, Any], prefetch: int
) -> None:
    """However late gathers, refreshes and reductions are: the losses are the same to the last bit.

    Weights of the first stages are gathered while refreshes of the last ones are still under way.
    """
    experiment = tiny(
        partition=row,
        transport=transport,
        prefetch=prefetch,
        dtype="bfloat16",
        accumulation=2,
        steps=3,
    )

    late, num_held = ranks(8).run(train_late, experiment)[0]
    plain = ranks(8).run(train, experiment)[0]

    assert late.losses == plain.losses
    assert late.norms == plain.norms
    # The four stages are refreshed at once; then the first is gathered, and those after it.
    assert num_held["gathers"] >= 4
    assert num_held["reductions"] >= 1


class WatchedEngine(Engine):
    """An engine that notes, at each visit, of how many stages it holds the whole weights."""

    def __init__(self, experiment: TrainingExperiment) -> None:
        model = build_gpt(experiment.model, experiment.sequence, experiment.seed)
        super().__init__(experiment, model, CPU)
        self.nums_held: list[int] = []

    @property
    def num_held(self) -> int:
        """Stages whose whole weights have memory now."""
        return sum(any(unit.is_allocated for unit in units) for units in self._units_of)

    def _gather_ahead(self, visits: Sequence[Any]) -> None:
        super()._gather_ahead(visits)
        self.nums_held.append(self.num_held)


def count_whole_stages(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[list[int], list[int], int]:
    """Train two steps and evaluate; return the stages held at each visit, and at the end."""
    del num_ranks
    with closing(WatchedEngine(experiment)) as engine:
        for step in range(2):
            engine.train_step(micro_batches(experiment, step, rank), experiment.optimizer.lr)
        trained, engine.nums_held = engine.nums_held, []
        engine.evaluate(micro_batches(experiment, 2, rank))
        return trained, engine.nums_held, engine.num_held


@pytest.mark.parametrize("row", ["zero3", "zero_topo"])
@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_no_more_stages_are_whole_than_are_gathered_ahead(
    ranks: Ranks, row: str, prefetch: int
) -> None:
    """One of five, and as many as are prefetched, at each visit of a micro-batch; in the end, none.

    Forward and back there are nine visits: the last stage's two are one. Around it, what is ahead
    is what is behind; near the end there is less to prefetch.
    """
    experiment = tiny(
        model={"layers": 3, "hidden": 24, "heads": 2, "vocabulary": 40},
        partition=row,
        prefetch=prefetch,
        accumulation=2,
    )

    trained, evaluated, left = ranks(8).run(count_whole_stages, experiment)[0]

    order = [0, 1, 2, 3, 4, 3, 2, 1, 0]
    ahead = [len(set(order[n : n + 1 + prefetch])) for n in range(9)]
    assert max(ahead) == 1 + prefetch
    assert trained == ahead * 4
    assert evaluated == [min(1 + prefetch, 5 - n) for n in range(5)] * 2
    assert left == 0
