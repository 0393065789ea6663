"""A train step in closed form: what ``timeline`` comes to for deep models of equal blocks.

For choosing among very many candidates; every time may be an array, one element a candidate. With
C computing time, G a gather, R a reduction, S a sync, w the computing time that hidden transfers
take, L blocks and A micro-batches::

    forward  = max(C_f + w_G, G)                        of one block; C_f + G without prefetch
    backward = max(C_b + w_G + w_R, G, R, G + R on each link that both use)
    step     = A (begin + L (forward + backward) + head) + tail + refresh + update

The first two gathers of a micro-batch are waited for (begin); of the sums, what does not fit beside
the last backward pass, and those of the last unit (tail); of the refreshes, what does not fit
beside the updates.
"""

from collections.abc import Callable, Sequence

from tasks.zero.costs.lanes import later, where_positive
from tasks.zero.costs.moves import Transfer
from tasks.zero.costs.timeline import StepCosts, UnitCosts


def closed_step_s(costs: StepCosts, layers: int, accumulation: int) -> float:
    """Return how long a train step takes, nearly.

    Args:
        costs: Of a model with a single block: the stages are embedding, block and head.
        layers: L.
        accumulation: A.
    """
    embedding, block, head = (_Stage(costs, stage) for stage in range(3))
    begin = embedding.forward_gather_s + _beside(costs, embedding.forward_s, block.forward_gather_s)
    if costs.prefetch:
        forward = later(block.forward_s + block.forward_owed_s, block.forward_gather_s)
    else:
        forward = block.forward_s + block.forward_gather_s
        begin = embedding.forward_gather_s + embedding.forward_s
    at_head = head.forward_s + head.backward_s
    at_head = _beside(costs, at_head, block.kept_gather_s) + block.owed(_kept)
    at_head = at_head + (0.0 if costs.prefetch else head.forward_gather_s)
    backward = block.backward_pace(hides_gathers=costs.prefetch > 0)
    micro_batch = begin + layers * (forward + backward) + at_head + embedding.backward_s
    last = later(backward + block.owed(_sync), block.seconds(_reduction) + block.seconds(_sync))
    tail = layers * (last - backward)
    tail = tail + embedding.seconds(_reduction) + embedding.seconds(_sync)
    update = embedding.update_s + layers * block.update_s + head.update_s
    refresh = embedding.seconds(_refresh) + layers * block.seconds(_refresh)
    refresh = refresh + head.seconds(_refresh)
    # Whole weights are awaited one by one; else the first gather waits for all refreshes.
    beside = where_positive(block.forward_gather_s, 0.0, layers * forward)
    refreshed = later(embedding.update_s + refresh - beside, update + head.seconds(_refresh))
    refreshed = where_positive(refresh, refreshed, update)
    return accumulation * micro_batch + tail + costs.norm_s + refreshed


_Choice = Callable[[UnitCosts], Transfer]


def _forward(unit: UnitCosts) -> Transfer:
    return unit.moves.forward_gather


def _kept(unit: UnitCosts) -> Transfer:
    return unit.moves.kept_gather


def _reduction(unit: UnitCosts) -> Transfer:
    return unit.moves.reduction


def _sync(unit: UnitCosts) -> Transfer:
    return unit.moves.sync


def _refresh(unit: UnitCosts) -> Transfer:
    return unit.moves.refresh


class _Stage:
    """Sums over the units of a stage.

    Args:
        costs: Of the model.
        stage: Its number.
    """

    def __init__(self, costs: StepCosts, stage: int) -> None:
        self._units: Sequence[UnitCosts] = [one for one in costs.units if one.stage == stage]
        compute = costs.stages[stage]
        self.forward_s = compute.forward_s
        self.backward_s = compute.backward_s + compute.recompute_s
        self.update_s = sum(unit.update_s for unit in self._units)
        self.forward_gather_s = self.seconds(_forward)
        self.kept_gather_s = self.seconds(_kept)
        self.forward_owed_s = self.owed(_forward)

    def seconds(self, choice: _Choice) -> float:
        return sum(choice(unit).seconds for unit in self._units)

    def owed(self, choice: _Choice) -> float:
        """Computing time that a hidden transfer takes."""
        return sum(choice(unit).coding_s + choice(unit).lost_s for unit in self._units)

    def backward_pace(self, *, hides_gathers: bool) -> float:
        """Time of a block's backward pass among many."""
        gather, reduction = self.kept_gather_s, self.seconds(_reduction)
        pace = later(self.backward_s + self.owed(_kept) + self.owed(_reduction), gather)
        if not hides_gathers:
            pace = gather + later(self.backward_s, self.backward_s + self.owed(_reduction) - gather)
        pace = later(pace, reduction)
        num_levels = len(self._units[0].moves.reduction.occupied_s)
        for level in range(num_levels):
            both = (_kept(unit).occupied_s[level] for unit in self._units)
            also = (_reduction(unit).occupied_s[level] for unit in self._units)
            pace = later(pace, sum(both) + sum(also))
        return pace


def _beside(costs: StepCosts, compute_s: float, gather_s: float) -> float:
    return later(compute_s, gather_s) if costs.prefetch else compute_s
