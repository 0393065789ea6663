"""A train step in time: the schedule of ``engine.Engine``, visit by visit, as a recurrence.

Three things go on beside each other: the computation, the lane of gathers and that of reductions.
Each does one thing after the other. What the engine waits for, this waits for:

- Weights are gathered ``prefetch`` visits ahead, never beyond the end of a micro-batch: so the
  first gathers of each micro-batch are waited for.
- At most two gradients leave at a time; the last ones of a micro-batch leave beside the next one.
- The sum of a unit over the micro-batches goes on at once when its last gradient has left. The norm
  waits for all of them. The gather of its new weights begins when a unit is updated, beside the
  update of the others; the lane does them before the first gather of the next forward pass.

A transfer that is hidden beside computation takes computing time: all that quantizing needs, and of
the moving the share that the links tell. While the computation waits, it loses nothing, as far as
the device is not at work for what is waited for.

The time starts and ends where nothing is under way: when the norm is known. One middle micro-batch
stands for all but the first and the last. Every time may be an array, one element a candidate.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from configs.training_memory import MOST_LEAVING
from tasks.zero.costs.computing import StageCompute
from tasks.zero.costs.lanes import Lane, Lanes, Promise, earlier, later, where_positive
from tasks.zero.costs.moves import Transfer, UnitMoves

_MOST_SIMULATED = 3
_SHALLOW = (6, 10)
"""Blocks of the two shallow models that stand for deep ones."""

Times = dict[str, float]
"""Seconds by cause."""


@dataclass(frozen=True)
class UnitCosts:
    """What a unit costs.

    Attributes:
        stage: Whose it is.
        moves: Its collectives.
        is_trainable: Whether it has gradients.
        is_shared: Whether the last stage uses it, too.
        update_s: Time of its optimizer.
    """

    stage: int
    moves: UnitMoves
    is_trainable: bool
    is_shared: bool
    update_s: float


@dataclass(frozen=True)
class StepCosts:
    """What a train step is made of.

    Attributes:
        stages: Computing time of each stage.
        units: All of the model.
        prefetch: Visits that weights are gathered ahead.
        reuses: Whether later micro-batches gather from what the first one has kept.
        norm_s: Time of the sum of the norm over all ranks.
    """

    stages: Sequence[StageCompute]
    units: Sequence[UnitCosts]
    prefetch: int
    reuses: bool = False
    norm_s: float = 0.0


def step_times(costs: StepCosts, accumulation: int) -> Times:
    """Return how long a train step takes, by cause.

    Args:
        costs: Its parts.
        accumulation: Micro-batches, at least 1; an array if all elements are at least 3.

    Returns:
        Seconds, which add up to the step: ``compute``, ``recompute``, ``quantize`` and
        ``interference`` (computing time that hidden transfers take), ``forward``, ``backward`` and
        ``gradients`` (waiting for gathers and reductions), ``sync``, ``refresh``, ``optimizer``.
    """
    run = _Run(costs)
    run.update()
    simulated = min(int(np.min(accumulation)), _MOST_SIMULATED)
    total: Times = {}
    for number in range(simulated):
        is_middle = 0 < number < simulated - 1
        before = dict(run.times)
        run.micro_batch(is_first=number == 0, is_last=number == simulated - 1)
        if is_middle:
            total = {
                cause: (accumulation - simulated) * (seconds - before.get(cause, 0.0))
                for cause, seconds in run.times.items()
            }
    run.finish()
    return {cause: seconds + total.get(cause, 0.0) for cause, seconds in run.times.items()}


def device_s(costs: StepCosts, accumulation: int) -> float:
    """Return how long the device itself is at work in a train step: it cannot take less.

    Args:
        costs: Its parts.
        accumulation: Micro-batches.

    Returns:
        Passes, updates, quantizing, and the share of moving that the links tell, of everything,
        hidden or not.
    """
    stages = sum(stage.forward_s + stage.backward_s + stage.recompute_s for stage in costs.stages)
    last = len(costs.stages) - 1
    seconds = accumulation * stages
    for unit in costs.units:
        moves = unit.moves
        firsts = 1 if costs.reuses else accumulation
        backward = 2 if unit.is_shared else int(unit.stage < last)  # a tied head gathers it, too
        again = accumulation - firsts + backward * accumulation
        for transfer, times in (
            (moves.forward_gather, firsts),
            (moves.kept_gather, again),
            (moves.reduction, accumulation),
            (moves.sync, 1),
            (moves.refresh, 1),
        ):
            seconds = seconds + times * (transfer.coding_s + transfer.lost_s)
        seconds = seconds + unit.update_s
    return seconds


def deep_step_times(costs: StepCosts, layers: int, accumulation: int) -> Times:
    """Return the same for a model of many equal blocks, from two shallow ones.

    The time of one block more is constant once there are some; so time is linear in the depth, but
    for the beginnings and ends of a micro-batch, which shallow models have, too. For many
    candidates at once, whose times are arrays.

    Args:
        costs: Of a model with a single block: the stages are embedding, block and head.
        layers: Blocks of the real one.
        accumulation: Micro-batches.
    """
    low, high = _SHALLOW
    if layers <= high:
        return step_times(_deepened(costs, layers), accumulation)
    of_low, of_high = (step_times(_deepened(costs, n), accumulation) for n in _SHALLOW)
    share = (layers - low) / (high - low)
    return {cause: of_low[cause] + share * (of_high[cause] - of_low[cause]) for cause in of_high}


def _deepened(costs: StepCosts, layers: int) -> StepCosts:
    embedding, block, head = costs.stages
    units = [unit for unit in costs.units if unit.stage == 0]
    for stage in range(1, layers + 1):
        units += [replace(unit, stage=stage) for unit in costs.units if unit.stage == 1]
    units += [replace(unit, stage=layers + 1) for unit in costs.units if unit.stage == 2]
    return replace(costs, stages=[embedding, *[block] * layers, head], units=units)


def total_s(times: Times) -> float:
    """Return the sum of all causes.

    Args:
        times: Seconds by cause.
    """
    return sum(times.values())


@dataclass
class _Run:
    """One train step under way."""

    costs: StepCosts
    times: Times = field(default_factory=dict)
    now: float = 0.0
    refreshed: dict[int, Promise] = field(default_factory=dict)
    refresh_end_s: float = 0.0
    pending: dict[int, Promise] = field(default_factory=dict)
    here: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    leaving: "deque[Promise]" = field(default_factory=deque)
    owed_coding_s: float = 0.0
    owed_lost_s: float = 0.0

    def __post_init__(self) -> None:
        num_stages = len(self.costs.stages)
        self.units_of: list[list[int]] = [[] for _ in range(num_stages)]
        for number, unit in enumerate(self.costs.units):
            self.units_of[unit.stage].append(number)
            if unit.is_shared:
                self.units_of[-1].append(number)
        forward = [(stage, False) for stage in range(num_stages)]
        self.visits = forward + [(stage, True) for stage in reversed(range(num_stages - 1))]
        self.lanes = Lanes(len(self.costs.units[0].moves.sync.occupied_s))

    def update(self) -> None:
        """Update unit after unit; the gathers of the new weights follow."""
        for number, unit in enumerate(self.costs.units):
            if not unit.is_trainable:
                continue
            self._spend("optimizer", unit.update_s)
            self._pay()
            self.refreshed[number] = self.lanes.gather(unit.moves.refresh, self.now)
            self._owe(unit.moves.refresh)
        self.refresh_end_s = self.lanes.gathers.end_s

    def micro_batch(self, *, is_first: bool, is_last: bool) -> None:
        """Do the visits of one micro-batch."""
        if is_first or not self.costs.reuses:
            self.kept.clear()
        last = len(self.costs.stages) - 1
        for number, (stage, is_backward) in enumerate(self.visits):
            self._gather_ahead(number, "backward" if is_backward else "forward")
            compute = self.costs.stages[stage]
            if not is_backward:
                self._spend("compute", compute.forward_s)
            if is_backward or stage == last:
                self._spend("recompute", compute.recompute_s)
                self._spend("compute", compute.backward_s)
            self._pay()
            if is_backward or stage == last:
                self._let_leave(stage, is_last=is_last)
            following = self.visits[number + 1 : number + 2]
            needed = {unit for later, _ in following for unit in self.units_of[later]}
            self.here -= set(self.units_of[stage]) - needed

    def finish(self) -> None:
        """Wait until all sums are where the optimizer is, and for the norm."""
        has_sync = sum(unit.moves.sync.seconds for unit in self.costs.units)
        end = self.lanes.reductions.end_s
        self._wait(where_positive(has_sync, end, 0.0), "sync")
        self._wait(end, "gradients")
        self._pay()
        self._spend("sync", self.costs.norm_s)

    def _gather_ahead(self, number: int, cause: str) -> None:
        """Begin the gathers of the visits ahead, and wait for those of this one."""
        awaited = self.units_of[self.visits[number][0]]
        working_s = 0.0  # of the device, for what is waited for at once
        for stage, _ in self.visits[number : number + 1 + self.costs.prefetch]:
            for unit in self.units_of[stage]:
                if unit in self.pending or unit in self.here:
                    continue
                moves = self.costs.units[unit].moves
                transfer = moves.kept_gather if unit in self.kept else moves.forward_gather
                self.kept.add(unit)
                if unit in self.refreshed:  # before its shard can be gathered
                    ready = self.refreshed[unit].end_s
                    self._wait(where_positive(transfer.seconds, ready, 0.0), "refresh")
                self.pending[unit] = self.lanes.gather(transfer, self.now)
                if unit in awaited:
                    working_s = working_s + transfer.coding_s + transfer.lost_s
                else:
                    self._owe(transfer)
        for unit in awaited:
            if unit in self.refreshed:
                self._wait(self._taken(self.lanes.gathers, self.refreshed.pop(unit)), "refresh")
            if unit in self.pending:
                ready = self._taken(self.lanes.gathers, self.pending.pop(unit))
                self._wait(earlier(ready, self.refresh_end_s), "refresh")
                working_s = self._wait(ready, cause, working_s)
            self.here.add(unit)

    def _let_leave(self, stage: int, *, is_last: bool) -> None:
        """Send the gradients of a stage away."""
        for unit in self.units_of[stage]:
            costs = self.costs.units[unit]
            if not costs.is_trainable or costs.stage != stage:
                continue
            self.leaving.append(self.lanes.reduce(costs.moves.reduction, self.now))
            self._owe(costs.moves.reduction)
            if len(self.leaving) > MOST_LEAVING:
                oldest = self._taken(self.lanes.reductions, self.leaving.popleft())
                self._wait(oldest, "gradients")
            if is_last:
                self._taken(
                    self.lanes.reductions, self.lanes.reduce(costs.moves.sync, self.now)
                )  # which the norm waits for
                self._owe(costs.moves.sync)

    def _taken(self, lane: Lane, promise: Promise) -> float:
        """Return when a transfer is done; the lane need not remember it."""
        lane.promises.remove(promise)
        return promise.end_s

    def _owe(self, transfer: Transfer) -> None:
        """Take computing time for a transfer, from what is computed next."""
        self.owed_coding_s = self.owed_coding_s + transfer.coding_s
        self.owed_lost_s = self.owed_lost_s + transfer.lost_s

    def _pay(self) -> None:
        self._spend("quantize", self.owed_coding_s)
        self._spend("interference", self.owed_lost_s)
        self.owed_coding_s = self.owed_lost_s = 0.0

    def _wait(self, until: float, cause: str, working_s: float = 0.0) -> float:
        """Wait; meanwhile the device does what it owes to other transfers.

        Args:
            until: When what is waited for is done.
            cause: For the split.
            working_s: What the device has to do for that itself, and does first.

        Returns:
            What is left of that.
        """
        gap = _positive(until - self.now)
        self._spend(cause, gap)
        idle = _positive(gap - working_s)
        rest = _positive(idle - self.owed_lost_s)
        self.owed_lost_s = _positive(self.owed_lost_s - idle)
        self.owed_coding_s = _positive(self.owed_coding_s - rest)
        return _positive(working_s - gap)

    def _spend(self, cause: str, seconds: float) -> None:
        self.times[cause] = self.times.get(cause, 0.0) + seconds
        self.now = self.now + seconds


def _positive(seconds: float) -> float:
    return later(seconds, 0.0)
