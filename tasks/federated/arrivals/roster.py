"""Who can be drawn at all, and how often each has returned."""

from collections.abc import Iterable

import numpy as np

from tasks.federated.arrivals.interface import Ints


class Roster:
    """The ids 0..num_ids-1 less some absent ones, without a list of all.

    Attributes:
        size: Number of ids present.
    """

    def __init__(self, num_ids: int, absent: Iterable[int] = ()) -> None:
        sorted_absent = np.unique(np.fromiter(absent, dtype=np.int64))
        self.size = num_ids - len(sorted_absent)
        # Rank r of those present has r + (number of absent ids before it) as its id; the j-th
        # absent id lies before it exactly if absent_j - j <= r.
        self._gaps = sorted_absent - np.arange(len(sorted_absent))

    def ids(self, ranks: Ints) -> Ints:
        """Return the ids of ranks 0..size-1 among those present."""
        return ranks + np.searchsorted(self._gaps, ranks, side="right")

    def sample(self, rng: np.random.Generator, num_drawn: int) -> Ints:
        """Draw distinct ids uniformly, in random order, in O(num_drawn)."""
        return self.ids(rng.choice(self.size, num_drawn, replace=False))


class ReturnCounts:
    """How many returns each worker has made: the ``sequence`` of its next one.

    Attributes:
        counts: One count a worker, shape (M,).
    """

    def __init__(self, num_workers: int) -> None:
        self.counts: Ints = np.zeros(num_workers, dtype=np.int64)

    def add(self, worker: Ints) -> Ints:
        """Count returns, in order of arrival.

        Args:
            worker: Ids of the workers that return, shape (m,); repetitions count each time.

        Returns:
            How many returns each had made before, shape (m,).
        """
        order = np.argsort(worker, kind="stable")
        in_order = worker[order]
        repetition = np.arange(len(worker)) - np.searchsorted(in_order, in_order)
        sequence = self.counts[worker]
        sequence[order] += repetition
        np.add.at(self.counts, worker, 1)
        return sequence
