"""A train step as events, written without the cost model's recurrence: what that is held against.

It follows the engine's code: a program of the computation, which issues, waits and computes, and
two lanes, which do what they are given in order. Links are shared fairly by what moves at the same
time, and the device by what computes: encoding first, then what is left.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.zero.costs.moves import Transfer
from tasks.zero.costs.timeline import StepCosts

_NEGLIGIBLE_S = 1e-12


@dataclass
class _Job:
    """A transfer in a lane.

    Attributes:
        transfer: What it takes.
        left_s: Of encoding, moving, decoding.
    """

    transfer: Transfer
    left_s: list[float]

    @property
    def phase(self) -> int:
        """0 to 2 while it is under way, 3 when it is done."""
        return next((k for k, left in enumerate(self.left_s) if left > _NEGLIGIBLE_S), 3)

    def demand(self, level: int) -> float:
        """Share of a link that it takes while it moves alone."""
        return self.transfer.occupied_s[level] / self.transfer.move_s


_Order = tuple[str, object]


class Simulator:
    """One train step.

    Args:
        costs: Its parts.
        accumulation: Micro-batches.
    """

    def __init__(self, costs: StepCosts, accumulation: int) -> None:
        self.costs, self.accumulation = costs, accumulation
        self.lanes: dict[str, deque[_Job]] = {"gathers": deque(), "reductions": deque()}
        self.now = 0.0

    def run(self) -> float:
        """Return the seconds of the step."""
        for order, value in self._program():
            if order == "compute":
                self._compute(float(value))  # type: ignore[arg-type]  # it is a number
            elif isinstance(value, _Job):
                while value.phase < 3:
                    self._advance(None)
        return self.now

    def _submit(self, lane: str, transfer: Transfer) -> _Job | None:
        if transfer.seconds == 0:
            return None
        job = _Job(transfer, [transfer.encode_s, transfer.move_s, transfer.decode_s])
        self.lanes[lane].append(job)
        return job

    def _program(self) -> Iterator[_Order]:
        """What the engine's thread does."""
        costs, units = self.costs, self.costs.units
        refreshes: dict[int, _Job | None] = {}
        for number, unit in enumerate(units):
            if unit.is_trainable:
                yield "compute", unit.update_s
                refreshes[number] = self._submit("gathers", unit.moves.refresh)
        last = len(costs.stages) - 1
        of_stage = [[n for n, u in enumerate(units) if u.stage == s] for s in range(last + 1)]
        of_stage[last] += [n for n, u in enumerate(units) if u.is_shared]
        visits = [(s, False) for s in range(last + 1)] + [(s, True) for s in reversed(range(last))]
        leaving: deque[_Job | None] = deque()
        kept: set[int] = set()
        all_sums: list[_Job | None] = []
        for micro_batch in range(self.accumulation):
            pending: dict[int, _Job | None] = {}
            whole: set[int] = set()
            if not costs.reuses:
                kept = set()
            for index, (stage, is_backward) in enumerate(visits):
                for later, _ in visits[index : index + 1 + costs.prefetch]:
                    for n in of_stage[later]:
                        if n in whole or n in pending:
                            continue
                        moves = units[n].moves
                        transfer = moves.kept_gather if n in kept else moves.forward_gather
                        if transfer.seconds:
                            yield "wait", refreshes.get(n)
                        kept.add(n)
                        pending[n] = self._submit("gathers", transfer)
                for n in of_stage[stage]:
                    yield "wait", refreshes.pop(n, None)
                    yield "wait", pending.pop(n, None)
                    whole.add(n)
                compute = costs.stages[stage]
                if not is_backward:
                    yield "compute", compute.forward_s
                if is_backward or stage == last:
                    yield "compute", compute.recompute_s + compute.backward_s
                    for n in of_stage[stage]:
                        if units[n].stage != stage or not units[n].is_trainable:
                            continue
                        leaving.append(self._submit("reductions", units[n].moves.reduction))
                        if len(leaving) > 2:
                            yield "wait", leaving.popleft()
                        if micro_batch == self.accumulation - 1:
                            all_sums.append(self._submit("reductions", units[n].moves.sync))
                following = [later for later, _ in visits[index + 1 : index + 2]]
                whole -= {
                    n for n in of_stage[stage] if not any(n in of_stage[s] for s in following)
                }
        for job in [*leaving, *all_sums]:
            yield "wait", job
        yield "compute", costs.norm_s

    def _compute(self, work_s: float) -> None:
        while work_s > _NEGLIGIBLE_S:
            work_s -= self._advance(work_s)

    def _advance(self, work_s: float | None) -> float:
        """Go on to the next event; return how much of the work was done meanwhile."""
        active = [lane[0] for lane in self.lanes.values() if lane]
        coding = [job for job in active if job.phase in {0, 2}]
        moving = [job for job in active if job.phase == 1]
        speeds = {id(job): 1 / len(coding) for job in coding}
        for job in moving:
            crowded = [1.0]
            for level, seconds in enumerate(job.transfer.occupied_s):
                if seconds:
                    crowded.append(sum(other.demand(level) for other in moving))
            speeds[id(job)] = 1 / max(crowded)
        taken = float(bool(coding)) + sum(
            speeds[id(job)] * job.transfer.lost_s / job.transfer.move_s for job in moving
        )
        pace = max(0.0, 1.0 - taken)
        steps = [job.left_s[job.phase] / speeds[id(job)] for job in active]
        if work_s is not None and pace > 0:
            steps.append(work_s / pace)
        step = min(steps)
        self.now += step
        for job in active:
            job.left_s[job.phase] -= step * speeds[id(job)]
        for lane in self.lanes.values():
            while lane and lane[0].phase == 3:
                lane.popleft()
        return step * pace
