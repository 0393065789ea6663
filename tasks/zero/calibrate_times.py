"""Times that all ranks measure together: in lockstep, and agreed upon.

What ranks share (cores, links) is not shared evenly at every moment: who is favoured ends early,
and leaves all of it to the others. So a time ends when the last rank is done. In a training, too,
the others wait for that one.

Where ranks outnumber the cores, all that they do is work of the same cores. Its processor time is
seen more surely than the time on the wall, which what else the machine does makes longer now and
then; so a rank's own work counts by that, times what a second of it takes on the wall while all
ranks compute: the median of all that was seen of it.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed as dist

from tasks.zero.calibrate_fit import Beside

_FEWEST, _MOST = 3, 50
_SHORTEST_S = 1e-6
_WARM_UP = 1
_FEWEST_TURNS = 5
_FEWEST_IN_STEP = 8
_CROWDED = 1.5
"""Wall time of computing for a second of processor time, from which ranks outnumber the cores."""
_COMPUTE_BESIDE = 1.5
"""How much longer than other work is computed beside it."""


@dataclass(frozen=True)
class _Once:
    """What doing something once takes.

    Attributes:
        wall_s: Until the last rank is done.
        processor_s: Of this rank.
    """

    wall_s: float
    processor_s: float


class Clock:
    """Times work on all ranks at once.

    Args:
        device: Of the work.
        least_s: Least time of one measurement.
    """

    def __init__(self, device: torch.device, least_s: float) -> None:
        self._device, self.least_s = device, least_s
        self._crowding: list[float] = []

    @property
    def is_crowded(self) -> bool:
        """Whether ranks outnumber the cores, as far as was seen."""
        return self._device.type == "cpu" and self.crowding > _CROWDED

    @property
    def crowding(self) -> float:
        """What a second of processor time takes on the wall while all ranks compute."""
        return statistics.median(self._crowding) if self._crowding else 1.0

    def work_s(self, work: Callable[[], object]) -> float:
        """Return the time of a rank's own work, which waits for no other rank.

        Args:
            work: What to do, on all ranks at once.

        Returns:
            On all ranks the same.
        """
        measured = self._repeated(work)
        wall_s, processor_s = measured.wall_s, self.agreed(measured.processor_s)
        self._crowding.append(wall_s / max(processor_s, _SHORTEST_S))
        return processor_s * self.crowding if self.is_crowded else wall_s

    def own_s(self, work: Callable[[], object]) -> float:
        """Return the time of doing some work once, of this rank alone.

        Args:
            work: What to do.
        """
        began_s = time.process_time()
        wall_s = self.once_s(work)
        return (time.process_time() - began_s) * self.crowding if self.is_crowded else wall_s

    def mean_s(
        self,
        work: Callable[[], object],
        *,
        takes_part: bool = True,
        waits: bool = False,
        fewest: int = _FEWEST,
    ) -> float:
        """Do something again and again on all ranks at once; return the time that one takes.

        Where ranks take turns on cores and links, single times say little: many are added up. They
        follow each other at once, so that a link that lets short bursts pass faster (a token
        bucket, filled while nothing moved) shows what it carries for long.

        Args:
            work: What to do.
            takes_part: Whether this rank does it; else it is silent meanwhile.
            waits: Whether each time is waited for until it is done on the device, and not only the
                last one.
            fewest: Times at least.

        Returns:
            Until the last rank is done, on all ranks the same.
        """
        return self._repeated(work, takes_part=takes_part, waits=waits, fewest=fewest).wall_s

    def _repeated(
        self,
        work: Callable[[], object],
        *,
        takes_part: bool = True,
        waits: bool = False,
        fewest: int = _FEWEST,
    ) -> "_Once":
        """Return what doing something takes; see ``mean_s``."""
        once = [self.once_s(work) if takes_part else 0.0 for _ in range(_WARM_UP + 1)]
        repeats = max(fewest, self._repeats(self.agreed(once[-1], largest=True)))
        self.meet()
        begin, begin_processor = time.perf_counter(), time.process_time()
        for _ in range(repeats if takes_part else 0):
            work()
            if waits:
                self._synchronize()
        self._synchronize()
        processor_s = time.process_time() - begin_processor
        took_s = time.perf_counter() - begin if takes_part else 0.0
        self.meet()
        return _Once(self.agreed(took_s / repeats, largest=True), processor_s / repeats)

    def in_step_s(self, work: Callable[[], object]) -> float:
        """Return the time of something after which all ranks wait for each other, each time.

        So it is in a training, where collectives among others follow: who is done early does not
        go on, and leaves a shared link to who is late, but that one is waited for.

        Args:
            work: What to do, on all ranks.

        Returns:
            Without what the waiting takes by itself, on all ranks the same.
        """

        def both() -> None:
            work()
            self.meet()

        return self.mean_s(both, fewest=_FEWEST_IN_STEP) - self.mean_s(self.meet)

    def beside(
        self, begin: Callable[[], Sequence[Callable[[], None]]], compute: Callable[[], object]
    ) -> Beside:
        """Compute beside other work that ends before, and see how much longer that takes.

        Args:
            begin: Begins the work in the background; returns what waits for its pieces.
            compute: A piece of computing.

        Returns:
            The times, on all ranks the same.
        """

        def work() -> None:
            for end in begin():
                end()

        piece_s, work_s = self.mean_s(compute), self.mean_s(work, waits=True)
        pieces = max(1, math.ceil(_COMPUTE_BESIDE * work_s / piece_s))

        def computing() -> None:
            for _ in range(pieces):
                compute()

        def both() -> None:
            ends = begin()
            computing()
            for end in ends:
                end()

        # In turns: what else the machine does is to meet all of them.
        turns: dict[str, list[tuple[float, float]]] = {"work": [], "alone": [], "both": []}
        for _ in range(max(_FEWEST_TURNS, self._repeats(work_s))):
            for name, what in (("work", work), ("alone", computing), ("both", both)):
                self.meet()
                began_s = time.process_time()
                took_s = self.agreed(self.once_s(what), largest=True)
                turns[name].append((took_s, self.agreed(time.process_time() - began_s)))
        medians = {
            name: [statistics.median(column) for column in zip(*some, strict=True)]
            for name, some in turns.items()
        }
        return self._compared(medians["work"][0], medians["alone"], medians["both"])

    def _compared(self, work_s: float, alone: Sequence[float], both: Sequence[float]) -> Beside:
        """Return what computing loses beside other work.

        Args:
            work_s: Of the other work by itself.
            alone: Seconds of computing on the wall, and of processor time of a rank.
            both: The same of computing beside other work.
        """
        self._crowding.append(alone[0] / max(alone[1], _SHORTEST_S))
        if self.is_crowded:
            return Beside(work_s, self.crowding * (both[1] - alone[1]), is_crowded=True)
        return Beside(work_s, both[0] - alone[0])

    def once_s(self, work: Callable[[], object]) -> float:
        """Return the time of doing something once, on this rank.

        Args:
            work: What to do.
        """
        self._synchronize()
        begin = time.perf_counter()
        work()
        self._synchronize()
        return time.perf_counter() - begin

    def meet(self) -> None:
        """Wait for all ranks."""
        if dist.get_world_size() > 1:
            dist.barrier()
        self._synchronize()

    def agreed(self, seconds: float, *, largest: bool = False) -> float:
        """Return a time that is the same on all ranks.

        Args:
            seconds: This rank's.
            largest: Take the largest, not the mean.
        """
        num_ranks = dist.get_world_size()
        if num_ranks == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64, device=self._device)
        dist.all_reduce(value, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        return value.item() / (1 if largest else num_ranks)

    def _repeats(self, seconds: float) -> int:
        return min(_MOST, max(_FEWEST, math.ceil(self.least_s / max(seconds, _SHORTEST_S))))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
