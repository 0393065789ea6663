"""Synchronous rounds: the server waits for the slowest of its sample."""

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import Synchronous
from configs.federated import FederatedExperiment
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.arrivals.roster import ReturnCounts, Roster
from tasks.federated.local_steps import StepLaw
from tasks.federated.randomness import Stream, generator
from tasks.federated.service import ServiceTimes


class SynchronousArrivals:
    """A uniform sample without replacement pulls the newest model; the last one ends the round."""

    def __init__(
        self,
        config: Synchronous,
        experiment: FederatedExperiment,
        draw_steps: StepLaw,
        service: ServiceTimes,
    ) -> None:
        self._collect = experiment.algorithm.collect
        self._seed = experiment.seed
        self._roster = Roster(experiment.workers, config.never_return)
        self._counts = ReturnCounts(experiment.workers)
        self._draw_steps = draw_steps
        self._service = service
        self._now_s = 0.0

    def next_buffer(self, version: int) -> Arrivals:
        """Return the buffer that makes ``version`` into ``version + 1``."""
        sampled = self._roster.sample(
            generator(self._seed, Stream.ARRIVALS, version), self._collect
        )
        sequence = self._counts.add(sampled)
        num_steps = self._draw_steps(sampled, sequence)
        returned_at_s = self._now_s + self._service.durations_s(sampled, sequence, num_steps)
        # primary key last: by time, and by id among those that return at once
        order = np.lexsort((sampled, returned_at_s))
        pulled_at_s, self._now_s = self._now_s, float(returned_at_s[order[-1]])
        return Arrivals(
            worker=sampled[order],
            pulled=np.full(self._collect, version, dtype=np.int64),
            num_steps=num_steps[order],
            sequence=sequence[order],
            pulled_at_s=np.full(self._collect, pulled_at_s),
            returned_at_s=returned_at_s[order],
            released=(version,),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here."""
        return {"counts": self._counts.counts.copy(), "now_s": np.array([self._now_s])}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""
        self._counts.counts = state["counts"].astype(np.int64)
        self._now_s = float(state["now_s"][0])
