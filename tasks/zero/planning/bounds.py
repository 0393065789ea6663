"""How long a train step takes at least: what must come one after the other, in closed form.

A train step is cut where the device ends something, and each piece is bounded on its own:

- the beginning, from the first update to the end of the first computation of the head,
- descents, from there to the end of the backward pass of the first block,
- turns, from there to the end of the head's computation in the next micro-batch,
- the end, from the last backward pass of the first block to the last sum.

A piece lasts as long as all that the device must do in it, as every chain through a lane (what is
computed before the first of its transfers, the transfers, what is computed after the last of them),
and as every link is kept. Blocks are alike, so that chains through some of them are longest through
one or through all. Nothing that two pieces may share is counted in both, and what may be done while
the device waits counts only where waiting does not. So the bound is below ``costs.timeline`` for
every candidate, and mostly by very little; a property test holds it there.

All steps of the timeline are monotone: what begins later ends no sooner. So it is enough to follow
the earliest times, as ``_first_gathers`` does.

Symbols: L blocks. Units are embedding, block and head, in this order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.zero.planning.prices import Kind
from tasks.zero.planning.space import Floats, Ints, Mask
from tasks.zero.planning.work import Work

_SECONDS, _BUSY, _LINKS = 0, 1, 2
"""Columns of the moves: time in a lane, time of the device, and time of each link."""
_EMBEDDING, _BLOCK, _HEAD = 0, 1, 2
_LATE = 3
"""Blocks whose sums may still be under way at the end of a descent: at most two leave at a time."""


@dataclass(frozen=True)
class Computing:
    """What the device computes; all fields broadcast to n candidates.

    Attributes:
        forward: Of one micro-batch, shape (units, n) or (units, 1), s. The head's backward pass
            follows at once and stands here.
        backward: The same of the others, with recomputation and the copy of gradients, s.
        updates: Shape (units, n), s.
        prefetch: Visits that weights are gathered ahead.
        micro_batches: Of a step.
        layers: L.
    """

    forward: Floats
    backward: Floats
    updates: Floats
    prefetch: Ints
    micro_batches: Ints
    layers: int


@dataclass(frozen=True)
class Demands:
    """What candidates ask for; n of them.

    Attributes:
        moves: By kind of collective, shape (units, 2 + levels, n), s.
        reuses: Whether later micro-batches gather from what the first one has kept, shape (n,).
    """

    moves: Mapping[Kind, Floats]
    reuses: Mask


def computing(work: Work, passes: Ints, lengths: Floats, optimizer: Ints, layers: int) -> Computing:
    """Return what is computed.

    Args:
        work: Computing times.
        passes: Numbers of the ways through the batch, shape (n,) or (1,).
        lengths: Of the units, shape (units, n) or (units, 1).
        optimizer: o, shape (n,) or (1,).
        layers: L.
    """
    backward = work.backward[passes].T + work.copy * lengths
    forward = np.broadcast_to(work.forward[passes].T, backward.shape).copy()
    forward[_HEAD] += backward[_HEAD]
    backward[_BLOCK] += work.recompute[passes]
    return Computing(
        forward=forward,
        backward=backward,
        updates=work.update_fixed + work.update * lengths / optimizer,
        prefetch=work.prefetch[passes],
        micro_batches=work.micro_batches[passes],
        layers=layers,
    )


def lower_bound(demands: Demands, of: Computing, norm_s: float) -> Floats:
    """Return a bound of the step time that no schedule is below.

    Args:
        demands: What the candidates ask for.
        of: What they compute.
        norm_s: Time of the sum of the norm.

    Returns:
        Seconds, shape (n,).
    """
    moves = demands.moves
    kept, reduction, sync = moves["kept_gather"], moves["reduction"], moves["sync"]
    later = np.where(demands.reuses, kept, moves["forward_gather"])
    begin = beginning(moves["forward_gather"], kept, moves["refresh"], of)
    middle = descent(kept, reduction, of) + turn(later, kept, reduction, of)
    last = ending(kept, reduction, sync, of)
    return np.asarray(begin + (of.micro_batches - 1) * middle + last + norm_s)


def beginning(gather: Floats, kept: Floats, refresh: Floats, of: Computing) -> Floats:
    """Bound the updates and the first forward pass, to the end of the head's.

    Args:
        gather: From shards at rest, shape (units, 2 + levels, n); as of all other functions.
        kept: From what stays between the passes.
        refresh: Of updated weights.
        of: What is computed.
    """
    layers, forward = of.layers, of.forward
    # Only the head's share in quantizing may be done while the forward pass waits.
    updated = _all(of.updates, layers) + refresh[_EMBEDDING, _BUSY]
    updated = updated + layers * refresh[_BLOCK, _BUSY]
    first = of.updates[_EMBEDDING] + refresh[_EMBEDDING, _SECONDS]
    first_block = first + refresh[_BLOCK, _SECONDS]
    last_block = first + layers * refresh[_BLOCK, _SECONDS]
    refreshed = last_block + refresh[_HEAD, _SECONDS]
    # Where the forward pass gathers, its first gather is behind the refresh, in the same lane.
    gathers = gather[_EMBEDDING, _SECONDS] > 0
    start = np.where(gathers, np.maximum(updated, refreshed), updated)
    there = start + gather[_EMBEDDING, _SECONDS]
    whole = _forward(gather, kept, there, there + gather[_BLOCK, _SECONDS], of)
    return _most(
        whole,
        updated + refresh[_HEAD, _BUSY] + _all(forward, layers),
        first_block + layers * forward[_BLOCK] + forward[_HEAD],
        last_block + forward[_BLOCK] + forward[_HEAD],
        refreshed + forward[_HEAD],
    )


def descent(kept: Floats, reduction: Floats, of: Computing, sync: Floats | None = None) -> Floats:
    """Bound a backward pass, from the end of the head's computation to that of the first block.

    Args:
        kept: Gathers from what stays between the passes.
        reduction: Sums of a micro-batch.
        of: What is computed.
        sync: Of the last micro-batch: what follows each sum.
    """
    layers, block = of.layers, of.backward[_BLOCK]
    ahead = np.minimum(of.prefetch, layers)
    leaving = reduction if sync is None else reduction + sync
    # The gathers of the first visits began in the forward pass; of the rest, this is the device's.
    owed = leaving[_HEAD, _BUSY] + (layers - 1) * leaving[_BLOCK, _BUSY]
    beside = owed + (layers - ahead) * kept[_BLOCK, _BUSY]
    # Without prefetch every gather is waited for, and the device does what it owes meanwhile.
    alone = np.maximum(layers * kept[_BLOCK, _SECONDS], owed)
    device = layers * block + np.where(ahead == 0, alone, beside)
    gathers = (layers - ahead) * kept[_BLOCK]
    has_sums = sync is None and layers >= _LATE  # those of the last one count in ``ending``
    sums = leaving[_HEAD] + (layers - _LATE) * leaving[_BLOCK] if has_sums else 0.0 * kept[_HEAD]
    lanes = np.maximum(gathers[_SECONDS], sums[_SECONDS]) + block
    return _most(device, lanes, *(gathers + sums)[_LINKS:])


def turn(gather: Floats, kept: Floats, reduction: Floats, of: Computing) -> Floats:
    """Bound what is between two descents: the embedding's backward pass, and a forward pass.

    Args:
        gather: Of this forward pass.
        kept: From what stays between the passes.
        reduction: Sums of a micro-batch; the last two of them leave beside the first gathers.
        of: What is computed.
    """
    start = _last_backward(kept, reduction[_BLOCK, _BUSY], of)
    there, block_there = _first_gathers(gather, reduction, start)
    return _forward(gather, kept, there, block_there, of)


def ending(kept: Floats, reduction: Floats, sync: Floats, of: Computing) -> Floats:
    """Bound the end of a step: the last backward pass, and the sums that are waited for.

    Args:
        kept: Gathers from what stays between the passes.
        reduction: Sums of a micro-batch.
        sync: Sums of the step, each behind the last one of its unit.
        of: What is computed.
    """
    layers = of.layers
    sums = reduction + sync
    lane = sums[:, _SECONDS]
    links = (layers - np.minimum(of.prefetch, layers)) * kept[_BLOCK] + _all(sums, layers)
    return _most(
        descent(kept, reduction, of, sync) + leaving(kept, sums, of),
        of.backward[_BLOCK] + layers * lane[_BLOCK] + lane[_EMBEDDING],
        _all(lane, layers),
        *links[_LINKS:],
    )


def leaving(kept: Floats, sums: Floats, of: Computing) -> Floats:
    """Bound what follows the last descent, until the sums of the last two units are there.

    Args:
        kept: Gathers from what stays between the passes.
        sums: Of the units.
        of: What is computed.
    """
    computed = _last_backward(kept, sums[_BLOCK, _BUSY], of)
    left = np.maximum(sums[_BLOCK, _SECONDS], computed)
    return np.asarray(left + sums[_EMBEDDING, _SECONDS])


def _last_backward(kept: Floats, owed: Floats, of: Computing) -> Floats:
    """Bound the embedding's backward pass; the device owes something before it."""
    waits = np.where(of.prefetch == 0, kept[_EMBEDDING, _SECONDS], 0.0)
    return np.asarray(of.backward[_EMBEDDING] + np.maximum(owed, waits))


def _first_gathers(gather: Floats, reduction: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Return when the weights of the embedding, and of the first block, are there at least.

    The sums of both leave at the same time, and where both need one link, each transfer takes
    longer by the other's time on it, as ``costs.lanes`` has it: until the link has no more to do.

    Args:
        gather: Of the forward pass.
        reduction: Of the micro-batch before; the block's begins at time 0.
        start: When the embedding's sum and gather begin.
    """
    sums = reduction[:, _LINKS:]
    begin = np.maximum(reduction[_BLOCK, _SECONDS], start)
    kept_until = np.where(sums[_BLOCK] > 0, np.maximum(sums[_BLOCK], begin) + sums[_EMBEDDING], 0.0)
    there = start
    found = []
    for unit in (_EMBEDDING, _BLOCK):
        links = gather[unit, _LINKS:]
        # It may be encoded first, which is work of the device.
        begin = there + gather[unit, _BUSY]
        delay = np.minimum(links, np.maximum(kept_until - begin, 0.0)).max(axis=0)
        kept_until = np.where(links > 0, np.maximum(kept_until, there) + links, kept_until)
        there = there + gather[unit, _SECONDS] + delay
        found.append(there)
    return found[0], found[1]


def _forward(
    gather: Floats, kept: Floats, there: Floats, block_there: Floats, of: Computing
) -> Floats:
    """Bound the end of a forward pass.

    Args:
        gather: Of the forward pass.
        kept: Of the backward pass; the first of them begin here.
        there: When the embedding's weights are there.
        block_there: When those of the first block are.
        of: What is computed.
    """
    layers, forward = of.layers, of.forward
    ahead = np.minimum(of.prefetch, layers)
    blocks = layers * forward[_BLOCK] + forward[_HEAD]

    def beside(visits: int) -> Floats:
        """Work for the gathers of the visits that come after some."""
        others = np.maximum(layers - visits - ahead, 0) * gather[_BLOCK, _BUSY]
        others = others + np.where(of.prefetch <= layers - visits, gather[_HEAD, _BUSY], 0.0)
        alone = (layers - visits) * gather[_BLOCK, _SECONDS] + gather[_HEAD, _SECONDS]
        return np.asarray(np.where(ahead == 0, alone, others + ahead * kept[_BLOCK, _BUSY]))

    # What is issued while the first weights are waited for may be encoded meanwhile.
    last_there = block_there + (layers - 1) * gather[_BLOCK, _SECONDS]
    return _most(
        there + forward[_EMBEDDING] + blocks + beside(0),
        block_there + blocks + beside(1),
        last_there + forward[_BLOCK] + forward[_HEAD],
        last_there + gather[_HEAD, _SECONDS] + forward[_HEAD],
        *_all(gather, layers)[_LINKS:],
    )


def _all(units: Floats, layers: int) -> Floats:
    """Add up all units."""
    return np.asarray(units[_EMBEDDING] + layers * units[_BLOCK] + units[_HEAD])


def _most(*seconds: Floats) -> Floats:
    longest = seconds[0]
    for one in seconds[1:]:
        longest = np.maximum(longest, one)
    return longest
