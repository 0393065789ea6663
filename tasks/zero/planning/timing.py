"""The cost model's timeline for many candidates at once."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.zero.costs.computing import StageCompute
from tasks.zero.costs.moves import Transfer, UnitMoves
from tasks.zero.costs.timeline import (
    StepCosts,
    UnitCosts,
    device_s,
    step_times,
    total_s,
)
from tasks.zero.planning.prices import KINDS, Kind
from tasks.zero.planning.space import Floats, Ints, Mask
from tasks.zero.planning.work import Work

_ENDS = (0, 1, 2)
_ALIKE = 3
"""From so many micro-batches on a step is first, last and a multiple of one between."""


@dataclass(frozen=True)
class Schedule:
    """All that the timeline needs of n candidates.

    Attributes:
        moves: By kind of collective, shape (units, columns, n), s; columns as ``prices.as_row``.
        lengths: Of the units, shape (units, n).
        optimizer: o, shape (n,).
        reuses: Shape (n,).
        passes: Numbers of the ways through the batch, shape (n,).
    """

    moves: Mapping[Kind, Floats]
    lengths: Floats
    optimizer: Ints
    reuses: Mask
    passes: Ints

    def take(self, chosen: Ints) -> "Schedule":
        """Return some of them.

        Args:
            chosen: Their numbers.
        """
        return Schedule(
            {kind: rows[:, :, chosen] for kind, rows in self.moves.items()},
            self.lengths[:, chosen],
            self.optimizer[chosen],
            self.reuses[chosen],
            self.passes[chosen],
        )


@dataclass(frozen=True)
class Model:
    """What of the model and the machine all candidates share.

    Attributes:
        layers: L.
        is_tied: Whether the head is the embedding.
        norm_s: Time of the sum of the norm.
    """

    layers: int
    is_tied: bool
    norm_s: float


def timed(schedule: Schedule, work: Work, model: Model) -> Floats:
    """Return the step times.

    Args:
        schedule: The candidates.
        work: Computing times.
        model: What they share.

    Returns:
        Seconds, shape (n,).
    """
    step_s = np.empty(len(schedule.passes))
    for chosen in _groups(schedule, work):
        step_s[chosen] = _timed(schedule.take(chosen), work, model)
    return step_s


def _groups(schedule: Schedule, work: Work) -> list[Ints]:
    """Divide candidates so that those of a group differ in numbers only, not in the schedule."""
    prefetch = work.prefetch[schedule.passes]
    stays = np.minimum(work.micro_batches[schedule.passes], _ALIKE)
    reuses = schedule.reuses & (stays > 1)
    group = (prefetch * (_ALIKE + 1) + stays) * 2 + reuses
    return [np.flatnonzero(group == one) for one in np.unique(group)]


def _timed(group: Schedule, work: Work, model: Model) -> Floats:
    micro_batches = work.micro_batches[group.passes]
    is_one = int(micro_batches.min()) < _ALIKE
    # The timeline takes arrays where its types say numbers, one element a candidate.
    number: int = int(micro_batches[0]) if is_one else micro_batches  # type: ignore[assignment]
    costs = _step_costs(group, work, model)
    # As ``cost_model.predict`` has it.
    return np.asarray(np.maximum(total_s(step_times(costs, number)), device_s(costs, number)))


def _step_costs(group: Schedule, work: Work, model: Model) -> StepCosts:
    stages = [_stage(group, work, end) for end in _ENDS]
    moves = [_unit_moves(group, end) for end in _ENDS]
    updates = work.update_fixed + work.update * group.lengths / group.optimizer
    order = [0, *itertools.repeat(1, model.layers), 2]
    return StepCosts(
        stages=[stages[end] for end in order],
        units=[
            UnitCosts(
                stage=number,
                moves=moves[end],
                is_trainable=True,
                is_shared=model.is_tied and number == 0,
                update_s=updates[end],
            )
            for number, end in enumerate(order)
        ],
        prefetch=int(work.prefetch[group.passes[0]]),
        reuses=bool(group.reuses[0]),
        norm_s=model.norm_s,
    )


def _stage(group: Schedule, work: Work, end: int) -> StageCompute:
    recompute = work.recompute[group.passes] if end == 1 else np.zeros(len(group.passes))
    copied = work.copy * group.lengths[end]
    # As above.
    return StageCompute(
        forward_s=work.forward[group.passes, end],
        backward_s=work.backward[group.passes, end] + copied,
        recompute_s=recompute,  # type: ignore[arg-type]
    )


def _unit_moves(group: Schedule, end: int) -> UnitMoves:
    return UnitMoves(*(_transfer(group.moves[kind][end]) for kind in KINDS))


def _transfer(columns: Floats) -> Transfer:
    # What no candidate has is a number: the timeline then leaves it out.
    encode, move, decode, lost, *links = (column if column.any() else 0.0 for column in columns)
    return Transfer(encode, move, decode, lost, tuple(links))
