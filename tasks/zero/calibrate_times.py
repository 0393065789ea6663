"""Times that all ranks measure together: in lockstep, and agreed upon."""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import distributed as dist

from tasks.zero.calibrate_fit import Beside

_FEWEST, _MOST = 3, 50
_WARM_UP = 1
_FEWEST_TURNS = 5
_COMPUTE_BESIDE = 1.5
"""How much longer than other work is computed beside it."""


class Clock:
    """Times work on all ranks at once.

    Args:
        device: Of the work.
        least_s: Least time of one measurement.
    """

    def __init__(self, device: torch.device, least_s: float) -> None:
        self._device, self.least_s = device, least_s

    def median_s(self, work: Callable[[], object], *, takes_part: bool = True) -> float:
        """Do something again and again, and return the median time; all ranks call this.

        Args:
            work: What to do; it is waited for until it is done on the device.
            takes_part: Whether this rank does it; else it is silent meanwhile.

        Returns:
            The mean over those that took part, on all ranks the same.
        """
        times = [self.once_s(work) if takes_part else 0.0 for _ in range(_WARM_UP + 1)]
        longest = self.agreed(times[-1], largest=True)
        repeats = min(_MOST, max(_FEWEST, math.ceil(self.least_s / max(longest, 1e-6))))
        self.meet()
        times = [self.once_s(work) for _ in range(repeats)] if takes_part else [0.0]
        median_s = statistics.median(times) if takes_part else 0.0
        self.meet()
        return self._mean(median_s, takes_part=takes_part)

    def mean_s(self, work: Callable[[], object]) -> float:
        """Do something again and again on all ranks at once; return the time that one takes.

        Where ranks take turns on the cores, single times say little: many are added up.

        Args:
            work: What to do; it is waited for until it is done on the device.

        Returns:
            The mean over the ranks, on all of them the same.
        """
        longest = self.agreed(max(self.once_s(work) for _ in range(_WARM_UP + 1)), largest=True)
        repeats = min(_MOST, max(_FEWEST, math.ceil(self.least_s / max(longest, 1e-6))))
        self.meet()
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        self._synchronize()
        return self.agreed((time.perf_counter() - begin) / repeats)

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

        piece_s, work_s = self.mean_s(compute), self.median_s(work)
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
        works, alone, beside = list[float](), list[float](), list[float]()
        for _ in range(max(_FEWEST_TURNS, min(_MOST, math.ceil(self.least_s / work_s)))):
            for some, what in ((works, work), (alone, computing), (beside, both)):
                self.meet()
                some.append(self.agreed(self.once_s(what)))
        lost_s = statistics.median(beside) - statistics.median(alone)
        return Beside(statistics.median(works), lost_s)

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
        return (
            seconds if dist.get_world_size() == 1 else self._reduced([seconds], largest=largest)[0]
        )

    def _mean(self, seconds: float, *, takes_part: bool) -> float:
        mean, share = self._reduced([seconds, float(takes_part)], largest=False)
        return mean / share if share else 0.0

    def _reduced(self, values: Sequence[float], *, largest: bool) -> list[float]:
        """Return the means of all ranks' values, or the largest ones."""
        if dist.get_world_size() == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
        scale = 1 if largest else dist.get_world_size()
        return [value / scale for value in tensor.tolist()]

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
