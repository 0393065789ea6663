"""Round-based arrivals: the returns of every round are drawn directly, and so are their delays.

Round v lasts ``round_s`` and makes version v into v + 1 at its end, when all its returns come in. A
return of delay d pulled version v - d at the moment that it came to be. (Markov lets rounds pass
without an update; only there the two counts differ.)
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import Periodic, RoundBased, Schedule
from configs.federated import FederatedExperiment
from tasks.federated.arrivals.interface import Arrivals, Floats, Ints
from tasks.federated.arrivals.roster import ReturnCounts, Roster
from tasks.federated.local_steps import StepLaw
from tasks.federated.randomness import Stream, generator


class RoundArrivals(ABC):
    """What the round-based processes share; each says who returns in a round."""

    def __init__(
        self, config: RoundBased, experiment: FederatedExperiment, draw_steps: StepLaw
    ) -> None:
        self._config = config
        self._workers = experiment.workers
        self._collect = experiment.algorithm.collect
        self._seed = experiment.seed
        self._draw_steps = draw_steps
        self._counts = ReturnCounts(experiment.workers)

    @abstractmethod
    def _pick(self, version: int) -> Ints:
        """Say who makes ``version`` into ``version + 1``, shape (m,)."""

    def next_buffer(self, version: int) -> Arrivals:
        """Return the buffer that makes ``version`` into ``version + 1``."""
        worker = self._pick(version)
        sequence = self._counts.add(worker)
        pulled = version - self._delays(version)
        oldest = version - self._config.max_delay
        return Arrivals(
            worker=worker,
            pulled=pulled,
            num_steps=self._draw_steps(worker, sequence),
            sequence=sequence,
            pulled_at_s=self._made_at_s(pulled),
            returned_at_s=self._made_at_s(np.full_like(pulled, version + 1)),
            released=(oldest,) if oldest >= 0 else (),
        )

    def _delays(self, version: int) -> Ints:
        """Draw the delays; none can be more than the number of versions so far."""
        max_delay = self._config.max_delay
        if self._config.delay == "constant" or max_delay == 0:
            return np.full(self._collect, min(max_delay, version), dtype=np.int64)
        rng = generator(self._seed, Stream.DELAYS, version)
        return np.minimum(rng.integers(max_delay, size=self._collect, endpoint=True), version)

    def _made_at_s(self, version: Ints) -> Floats:
        """Virtual time at which versions came to be."""
        return version.astype(np.float64) * self._config.round_s

    def _draws(self, version: int) -> np.random.Generator:
        return generator(self._seed, Stream.ARRIVALS, version)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here."""
        return {"counts": self._counts.counts.copy()}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""
        self._counts.counts = state["counts"].astype(np.int64)


class UniformArrivals(RoundArrivals):
    """A uniform sample without replacement; O(m) however many workers there are."""

    def __init__(
        self, config: RoundBased, experiment: FederatedExperiment, draw_steps: StepLaw
    ) -> None:
        super().__init__(config, experiment, draw_steps)
        self._roster = Roster(self._workers, config.never_return)

    def _pick(self, version: int) -> Ints:
        return self._roster.sample(self._draws(version), self._collect)


class WeightedArrivals(RoundArrivals):
    """Independent draws with fixed weights; O(m log M)."""

    def __init__(
        self,
        config: RoundBased,
        experiment: FederatedExperiment,
        draw_steps: StepLaw,
        *,
        weights: Floats,
    ) -> None:
        super().__init__(config, experiment, draw_steps)
        present = weights.copy()
        present[list(config.never_return)] = 0.0
        self._cumulative = np.cumsum(present / present.max())
        self._last = int(np.flatnonzero(present)[-1])

    def _pick(self, version: int) -> Ints:
        draws = self._draws(version).random(self._collect) * self._cumulative[-1]
        # a draw just below the total may round up to it
        worker: Ints = np.minimum(
            np.searchsorted(self._cumulative, draws, side="right"), self._last
        )
        return worker


class ScheduledArrivals(RoundArrivals):
    """A fixed order of workers, repeated for ever."""

    def __init__(
        self, config: Schedule, experiment: FederatedExperiment, draw_steps: StepLaw
    ) -> None:
        super().__init__(config, experiment, draw_steps)
        self._roster = Roster(self._workers, config.never_return)
        self._order: Ints | None = None
        if config.order is not None:
            absent = set(config.never_return)
            self._order = np.array([w for w in config.order if w not in absent], dtype=np.int64)

    def _pick(self, version: int) -> Ints:
        positions = version * self._collect + np.arange(self._collect)
        if self._order is None:
            return self._roster.ids(positions % self._roster.size)
        return self._order[positions % len(self._order)]


class PeriodicArrivals(RoundArrivals):
    """Groups that take turns: a uniform sample of the group that is awake."""

    def __init__(
        self, config: Periodic, experiment: FederatedExperiment, draw_steps: StepLaw
    ) -> None:
        super().__init__(config, experiment, draw_steps)
        self._num_groups, self._period = config.groups, config.period
        # worker i is number i // groups of group i % groups
        self._rosters = [
            Roster(
                len(range(group, self._workers, self._num_groups)),
                [
                    w // self._num_groups
                    for w in config.never_return
                    if w % self._num_groups == group
                ],
            )
            for group in range(self._num_groups)
        ]

    def _pick(self, version: int) -> Ints:
        group = version // self._period % self._num_groups
        numbers = self._rosters[group].sample(self._draws(version), self._collect)
        return numbers * self._num_groups + group
