"""How long a worker takes: service times on the virtual clock.

A duration is a pure function of (seed, worker, sequence, number of steps), so that it does not
depend on when, or together with which other workers, it is asked for.
"""

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import Service
from tasks.federated.randomness import Stream, generator, rekey

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CHUNK = 16  # draws beyond twice the expected number, so that one attempt nearly always suffices


class ServiceTimes:
    """Service times of all workers.

    A worker's times are its own mean times independent draws of mean one: a draw a return, or, with
    ``per: step``, a draw a local step, which add up (K exponential steps are a Gamma(K) return).

    Attributes:
        means_s: Mean of each worker's draw in virtual seconds, its speed factor included, shape
            (M,), read-only.
    """

    def __init__(self, service: Service, *, workers: int, seed: int) -> None:
        self._service = service
        self._seed = seed
        self._generator = generator(seed, Stream.SERVICE)
        means_s: Floats = np.asarray(service.mean_s, dtype=np.float64)
        if service.spread > 0:
            deviations = generator(seed, Stream.SPEEDS).standard_normal(workers)
            means_s = means_s * np.exp(service.spread * deviations)
        self.means_s: Floats = np.broadcast_to(means_s, (workers,))

    def durations_s(self, worker: Ints, sequence: Ints, num_steps: Ints) -> Floats:
        """Draw how long returns take.

        Args:
            worker: Worker ids, shape (n,).
            sequence: How many returns each had made before, shape (n,).
            num_steps: Local steps of each, shape (n,).

        Returns:
            Virtual seconds from the pull to the return, shape (n,).
        """
        num_draws = num_steps if self._service.per == "step" else np.ones_like(num_steps)
        if self._service.law == "constant":
            return self.means_s[worker] * num_draws
        totals = [
            self._cumulative(*key)[-1]
            for key in zip(worker.tolist(), sequence.tolist(), num_draws.tolist(), strict=True)
        ]
        return self.means_s[worker] * np.array(totals, dtype=np.float64)

    def steps_within(
        self, worker: Ints, sequence: Ints, budget_s: float, *, max_steps: int
    ) -> Ints:
        """Count the local steps that a worker can do within a time budget (``per: step``).

        Args:
            worker: Worker ids, shape (n,).
            sequence: How many returns each had made before, shape (n,).
            budget_s: Virtual seconds that a return may take.
            max_steps: Never more than this.

        Returns:
            Number of steps, shape (n,), from 1 (a step is never left half done) to ``max_steps``.
        """
        budgets = budget_s / self.means_s[worker]
        if self._service.law == "constant":
            # 0.3 / 0.1 is a hair below 3, but three steps are meant to fit.
            return np.clip(budgets * (1 + 1e-12), 1, max_steps).astype(np.int64)
        counts = [
            self._count_within(*key, max_steps)
            for key in zip(worker.tolist(), sequence.tolist(), budgets.tolist(), strict=True)
        ]
        return np.array(counts, dtype=np.int64)

    def _count_within(self, worker: int, sequence: int, budget: float, max_steps: int) -> int:
        num_draws = int(min(2 * budget + _CHUNK, max_steps))
        while True:
            totals = self._cumulative(worker, sequence, num_draws)
            if totals[-1] > budget or num_draws == max_steps:
                return max(int(np.searchsorted(totals, budget, side="right")), 1)
            num_draws = min(2 * num_draws, max_steps)

    def _cumulative(self, worker: int, sequence: int, num_draws: int) -> Floats:
        """Running sum of a return's draws of mean one; longer ones begin with shorter ones."""
        rng = self._generator
        rekey(rng, self._seed, Stream.SERVICE, worker, sequence)
        if self._service.law == "exponential":
            return np.cumsum(rng.standard_exponential(num_draws))
        sigma = self._service.sigma
        # exp(mu + sigma z) has mean exp(mu + sigma^2 / 2)
        return np.cumsum(np.exp(sigma * rng.standard_normal(num_draws) - sigma**2 / 2))
