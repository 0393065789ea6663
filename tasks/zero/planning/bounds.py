"""How long a train step takes at least: what one thing after the other must take, in closed form.

Of each phase (updates, forward pass, backward pass, the end) the largest of: what the device does,
what the lane of gathers does, what that of reductions does, and how long each link is kept. Nothing
that two phases may share is counted twice: weights of the first ``prefetch`` visits of a backward
pass count in none, and the last reductions of a micro-batch in none but the last one's. So the
bound is below ``costs.timeline`` for every candidate, and mostly by little.

Symbols: L blocks. Units are embedding, block and head, in this order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.zero.planning.prices import Kind
from tasks.zero.planning.space import Floats, Ints, Mask
from tasks.zero.planning.work import Work

_SECONDS, _BUSY, _LINKS = 0, 1, 2
"""Rows of the arrays here: time in a lane, time of the device, and time of each link."""


@dataclass(frozen=True)
class Demands:
    """What candidates ask for; n of them.

    Attributes:
        moves: By kind of collective, shape (units, 2 + levels, n), s.
        lengths: Of the units, shape (units, n).
        optimizer: o, shape (n,).
        reuses: Whether later micro-batches gather from what the first one has kept, shape (n,).
        passes: Numbers of the ways through the batch, shape (n,).
    """

    moves: Mapping[Kind, Floats]
    lengths: Floats
    optimizer: Ints
    reuses: Mask
    passes: Ints


def lower_bound(demands: Demands, work: Work, layers: int, norm_s: float) -> Floats:
    """Return a bound of the step time that no schedule is below.

    Args:
        demands: What the candidates ask for.
        work: Computing times.
        layers: L.
        norm_s: Time of the sum of the norm.

    Returns:
        Seconds, shape (n,).
    """
    gather, kept = demands.moves["forward_gather"], demands.moves["kept_gather"]
    begin, forward_wait = _updates(demands, work, layers)
    first = _forward(gather, demands, work, layers)
    later = np.where(demands.reuses, _forward(kept, demands, work, layers), first)
    backward = _backward(demands, work, layers, is_last=False)
    last = _backward(demands, work, layers, is_last=True)
    others = work.micro_batches[demands.passes] - 1
    step = begin + np.maximum(first, forward_wait) + last + others * (later + backward)
    return np.asarray(step + norm_s)


def _updates(demands: Demands, work: Work, layers: int) -> tuple[Floats, Floats]:
    """Return when the first forward pass can begin, and how long it lasts for the refresh alone."""
    refresh = demands.moves["refresh"]
    updates = work.update * demands.lengths / demands.optimizer
    everything = updates[0] + layers * updates[1] + updates[2]
    busy = everything + refresh[0, _BUSY] + layers * refresh[1, _BUSY]
    lane = updates[0] + _all(refresh, layers)[_SECONDS]
    # Where the forward pass gathers, its first gather is behind the refresh, in the same lane.
    gathers = demands.moves["forward_gather"][0, _SECONDS] > 0
    begin = np.where(gathers, np.maximum(busy, lane), everything)
    return begin, np.where(gathers, 0.0, lane - everything)


def _forward(gather: Floats, demands: Demands, work: Work, layers: int) -> Floats:
    """Bound a forward pass: from its first gather to the end of the head's."""
    forward = work.forward[demands.passes].T
    total = _all(gather, layers)
    prefetch = work.prefetch[demands.passes]
    num_ahead = np.minimum(prefetch, layers)
    # What is issued beside the first gather is coded while that is waited for.
    beside = (layers - num_ahead) * gather[1, _BUSY]
    beside = beside + np.where(prefetch <= layers, gather[2, _BUSY], 0.0)
    alone = layers * gather[1, _SECONDS] + gather[2, _SECONDS]
    device = forward[0] + layers * forward[1] + forward[2]
    device = device + gather[0, _SECONDS] + np.where(num_ahead > 0, beside, alone)
    lane = total[_SECONDS] + forward[2]
    return _most(device, lane, *total[_LINKS:])


def _backward(demands: Demands, work: Work, layers: int, *, is_last: bool) -> Floats:
    """Bound a backward pass: from the end of the head's forward pass to that of the embedding."""
    passes = demands.passes
    kept, reduction = demands.moves["kept_gather"], demands.moves["reduction"]
    backward = work.backward[passes].T + work.copy * demands.lengths
    num_ahead = np.minimum(work.prefetch[passes], layers)
    own = layers - num_ahead
    computed = backward[0] + layers * (backward[1] + work.recompute[passes]) + backward[2]
    owed = reduction[2, _BUSY] + layers * reduction[1, _BUSY]
    # Without prefetch every gather is waited for, and the device does what it owes meanwhile.
    alone = np.maximum(layers * kept[1, _SECONDS] + kept[0, _SECONDS], owed)
    device = computed + np.where(num_ahead == 0, alone, owed + own * kept[1, _BUSY])
    gathers = own * kept[1] + kept[0]
    sums = reduction[2] + (layers - 1) * reduction[1]  # the last two may still be under way
    lane = sums[_SECONDS]
    if is_last:
        sync = demands.moves["sync"]
        beside = sync[2, _BUSY] + layers * sync[1, _BUSY]
        device = device + np.where(num_ahead == 0, 0.0, beside)
        device = device + reduction[0, _SECONDS] + sync[0, _SECONDS]
        sums = _all(reduction, layers) + _all(sync, layers)
        lane = backward[2] + sums[_SECONDS]
    links = own * kept[1, _LINKS:] + sums[_LINKS:]
    return _most(device, gathers[_SECONDS] + backward[0], lane, *links)


def _all(move: Floats, layers: int) -> Floats:
    """Add up all units."""
    return np.asarray(move[0] + layers * move[1] + move[2])


def _most(*seconds: Floats) -> Floats:
    return np.asarray(np.maximum.reduce(seconds))
