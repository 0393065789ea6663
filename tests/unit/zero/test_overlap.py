"""What runs beside the computation: it may be as late as it likes, and needs bounded memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest

from configs.training import TrainingExperiment
from configs.training_memory import MOST_LEAVING
from models.gpt import build_gpt
from tasks.zero import collectives
from tasks.zero.engine import Engine
from tasks.zero.lanes import Exposed, ThreadLane
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import CPU, Trained, micro_batches, tiny, train

Ranks = Callable[[int], RankPool]

FIVE_STAGES = {"layers": 3, "hidden": 24, "heads": 2, "vocabulary": 40}
ORDER = [0, 1, 2, 3, 4, 3, 2, 1, 0]
"""Of the stages in a micro-batch: the last one's forward and backward passes are one visit."""


class LateLane(ThreadLane):
    """A lane that does nothing before somebody waits for it: what is not waited for, is missing.

    Attributes:
        most_held: Pieces of work that nobody has waited for yet, at most so far.
    """

    most_held = 0

    def __init__(self, name: str, exposed: Exposed) -> None:
        super().__init__(name, exposed)
        self._gates: list[threading.Event] = []

    @property
    def num_submitted(self) -> int:
        """Pieces of work so far."""
        return len(self._gates)

    @property
    def num_held(self) -> int:
        """Pieces of work that nobody has waited for yet."""
        return sum(not gate.is_set() for gate in self._gates)

    def submit(self, work: Callable[[], None], level: str | None) -> Callable[[], None]:
        """See ``Lane``."""
        gate = threading.Event()
        self._gates.append(gate)
        self.most_held = max(self.most_held, self.num_held)

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


@contextmanager
def late_lanes() -> Iterator[dict[str, LateLane]]:
    """Give engines lanes that do everything as late as they may; they are there by their names."""
    lanes: dict[str, LateLane] = {}

    def make_lane(device: object, name: str, exposed: Exposed) -> LateLane:
        del device
        return lanes.setdefault(name, LateLane(name, exposed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "make_lane", make_lane)
        yield lanes


def train_late(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[Trained, dict[str, int]]:
    """Train on such lanes; return how much they held back."""
    with late_lanes() as lanes:
        trained = train(rank, num_ranks, experiment)
    return trained, {name: lane.most_held for name, lane in lanes.items()}


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

    late, most_held = ranks(8).run(train_late, experiment)[0]
    plain = ranks(8).run(train, experiment)[0]

    assert late.losses == plain.losses
    assert late.norms == plain.norms
    # The four stages are refreshed at once; then the first is gathered, and those after it.
    assert most_held["gathers"] >= 4
    assert most_held["reductions"] >= 1


class WatchedEngine(Engine):
    """An engine that notes something at each visit, when its weights are there.

    Args:
        experiment: What to train.
        look: What to note of the engine.
    """

    def __init__(
        self, experiment: TrainingExperiment, look: Callable[["WatchedEngine"], Any]
    ) -> None:
        model = build_gpt(experiment.model, experiment.sequence, experiment.seed)
        super().__init__(experiment, model, CPU)
        self._look = look
        self._noted: list[Any] = []

    @property
    def num_whole(self) -> int:
        """Stages whose whole weights have memory now."""
        return sum(any(unit.is_allocated for unit in units) for units in self._units_of)

    def _gather_ahead(self, visits: Sequence[Any]) -> None:
        super()._gather_ahead(visits)
        self._noted.append(self._look(self))

    def take_noted(self) -> list[Any]:
        """Return what was noted since the last call, visit by visit."""
        noted, self._noted = self._noted, []
        return noted


def count_whole_stages(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[list[int], list[int], int]:
    """Train two steps and evaluate; return the stages held at each visit, and at the end."""
    del num_ranks
    with closing(WatchedEngine(experiment, lambda engine: engine.num_whole)) as engine:
        for step in range(2):
            engine.train_step(micro_batches(experiment, step, rank), experiment.optimizer.lr)
        trained = engine.take_noted()
        engine.evaluate(micro_batches(experiment, 2, rank))
        return trained, engine.take_noted(), engine.num_whole


@pytest.mark.parametrize("row", ["zero3", "zero_topo"])
@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_no_more_stages_are_whole_than_are_gathered_ahead(
    ranks: Ranks, row: str, prefetch: int
) -> None:
    """One of five, and as many as are prefetched, at each visit of a micro-batch; in the end, none.

    Forward and back there are nine visits: the last stage's two are one. Around it, what is ahead
    is what is behind; near the end there is less to prefetch.
    """
    experiment = tiny(model=FIVE_STAGES, partition=row, prefetch=prefetch, accumulation=2)

    trained, evaluated, left = ranks(8).run(count_whole_stages, experiment)[0]

    ahead = [len(set(ORDER[n : n + 1 + prefetch])) for n in range(9)]
    assert max(ahead) == 1 + prefetch
    assert trained == ahead * 4
    assert evaluated == [min(1 + prefetch, 5 - n) for n in range(5)] * 2
    assert left == 0


def count_what_is_under_way(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Train a step and evaluate on two batches, on lanes that do nothing before it is waited for.

    Returns:
        By visit: gathers that are not waited for, in training and in evaluation; gradients that
        were sent away, and those of them that are not waited for.
    """
    del num_ranks
    with late_lanes() as lanes:

        def look(engine: WatchedEngine) -> tuple[int, int, int]:
            del engine
            gathers, reductions = lanes["gathers"], lanes["reductions"]
            return gathers.num_held, reductions.num_submitted, reductions.num_held

        with closing(WatchedEngine(experiment, look)) as engine:
            engine.train_step(micro_batches(experiment, 0, rank), experiment.optimizer.lr)
            gathers, sent, held = zip(*engine.take_noted(), strict=True)
            engine.evaluate(micro_batches(experiment, 1, rank))
            evaluated, _, _ = zip(*engine.take_noted(), strict=True)
    return list(gathers), list(evaluated), list(sent), list(held)


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_communication_is_under_way_while_a_stage_computes(ranks: Ranks, prefetch: int) -> None:
    """At each visit the gathers of the stages ahead, and of those behind the gradients.

    A stage's gradient has left before the next stage's backward pass, and the last few are not
    waited for; no gather is, before its own stage's turn.
    """
    experiment = tiny(model=FIVE_STAGES, partition="zero3", prefetch=prefetch, accumulation=2)

    gathers, evaluated, sent, held = ranks(8).run(count_what_is_under_way, experiment)[0]

    ahead = [len({*ORDER[n + 1 : n + 1 + prefetch]} - {ORDER[n]}) for n in range(9)]
    assert max(ahead) == prefetch
    assert gathers == ahead * 2
    assert evaluated == [min(prefetch, 4 - n) for n in range(5)] * 2
    # In the backward visits of stages 3 to 0, the gradients of one to four stages above them.
    assert sent == [0] * 5 + [1, 2, 3, 4] + [5] * 5 + [6, 7, 8, 9]
    assert held == [min(number, MOST_LEAVING) for number in sent]
