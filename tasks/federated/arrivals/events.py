"""Event-driven arrivals: all workers work without pause on one virtual clock.

At one instant, returns come before pulls: a worker that returns pulls again at once, and gets the
version that the returns of that instant have made. So workers that return together also pull
together, and a recorded trace, which knows times only, replays exactly. Returns of one instant come
in the order of the workers' ids.
"""

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import EventDriven
from configs.federated import FederatedExperiment
from tasks.federated.arrivals.interface import Arrivals, Floats, Ints
from tasks.federated.arrivals.roster import Roster
from tasks.federated.local_steps import StepLaw
from tasks.federated.service import ServiceTimes

_NOT_IN_FLIGHT = math.inf


class EventDrivenArrivals:
    """A heap of returns to come; O(log M) a return.

    A return that is too old is dropped, and takes a sequence number all the same: its successor
    must not draw the same duration again.
    """

    def __init__(
        self,
        config: EventDriven,
        experiment: FederatedExperiment,
        draw_steps: StepLaw,
        service: ServiceTimes,
    ) -> None:
        num_workers = experiment.workers
        self._collect = experiment.algorithm.collect
        self._max_delay = math.inf if config.max_delay is None else config.max_delay
        self._draw_steps = draw_steps
        self._service = service
        roster = Roster(num_workers, config.never_return)
        self._present = roster.ids(np.arange(roster.size))
        self._now_s = 0.0
        self._counts: Ints = np.zeros(num_workers, dtype=np.int64)
        # What each worker in flight holds.
        self._pulled: Ints = np.zeros(num_workers, dtype=np.int64)
        self._num_steps: Ints = np.zeros(num_workers, dtype=np.int64)
        self._pulled_at_s: Floats = np.zeros(num_workers)
        self._return_at_s: Floats = np.full(num_workers, _NOT_IN_FLIGHT)
        self._index()

    def _index(self) -> None:
        """Derive from the arrays what makes an event cheap."""
        return_at_s = self._return_at_s[self._present]
        is_in_flight = return_at_s != _NOT_IN_FLIGHT
        in_flight = self._present[is_in_flight]
        # Those who have returned at this instant, and pull when it is over.
        self._about_to_pull: list[int] = self._present[~is_in_flight].tolist()
        self._returns = list(
            zip(return_at_s[is_in_flight].tolist(), in_flight.tolist(), strict=True)
        )
        heapq.heapify(self._returns)
        versions, holders = np.unique(self._pulled[in_flight], return_counts=True)
        self._holders = dict(zip(versions.tolist(), holders.tolist(), strict=True))

    def next_buffer(self, version: int) -> Arrivals:
        """Return the buffer that makes ``version`` into ``version + 1``."""
        taken: list[tuple[int, int, int, int, float, float]] = []
        released: list[int] = []
        num_dropped = 0
        while len(taken) < self._collect:
            if not self._returns or self._returns[0][0] > self._now_s:
                self._pull(version)
            self._now_s, worker = heapq.heappop(self._returns)
            pulled = int(self._pulled[worker])
            if version - pulled > self._max_delay:
                num_dropped += 1
            else:
                taken.append(
                    (
                        worker,
                        pulled,
                        int(self._num_steps[worker]),
                        int(self._counts[worker]),
                        float(self._pulled_at_s[worker]),
                        self._now_s,
                    )
                )
            self._counts[worker] += 1
            self._return_at_s[worker] = _NOT_IN_FLIGHT
            self._about_to_pull.append(worker)
            if self._let_go(pulled) and pulled < version:
                released.append(pulled)
        if version not in self._holders:
            released.append(version)  # all pulls from now on get the next version
        worker_, pulled_, num_steps, sequence, pulled_at_s, returned_at_s = zip(*taken, strict=True)
        return Arrivals(
            worker=np.array(worker_, dtype=np.int64),
            pulled=np.array(pulled_, dtype=np.int64),
            num_steps=np.array(num_steps, dtype=np.int64),
            sequence=np.array(sequence, dtype=np.int64),
            pulled_at_s=np.array(pulled_at_s),
            returned_at_s=np.array(returned_at_s),
            released=tuple(released),
            num_dropped=num_dropped,
        )

    def _pull(self, version: int) -> None:
        """Let those who have returned pull, now that the clock is about to move on."""
        if not self._about_to_pull:
            return
        worker = np.array(self._about_to_pull, dtype=np.int64)
        num_steps = self._draw_steps(worker, self._counts[worker])
        durations_s = self._service.durations_s(worker, self._counts[worker], num_steps)
        # A return comes after its pull, also when rounding swallows the duration.
        later_s = np.nextafter(self._now_s, math.inf)
        return_at_s = np.maximum(self._now_s + durations_s, later_s)
        self._pulled[worker] = version
        self._num_steps[worker] = num_steps
        self._pulled_at_s[worker] = self._now_s
        self._return_at_s[worker] = return_at_s
        self._holders[version] = self._holders.get(version, 0) + len(worker)
        for event in zip(return_at_s.tolist(), self._about_to_pull, strict=True):
            heapq.heappush(self._returns, event)
        self._about_to_pull = []

    def _let_go(self, version: int) -> bool:
        """Count one holder of a version less; say whether it was the last."""
        self._holders[version] -= 1
        if self._holders[version]:
            return False
        del self._holders[version]
        return True

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here."""
        return {
            "counts": self._counts.copy(),
            "pulled": self._pulled.copy(),
            "num_steps": self._num_steps.copy(),
            "pulled_at_s": self._pulled_at_s.copy(),
            "return_at_s": self._return_at_s.copy(),
            "now_s": np.array([self._now_s]),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""
        self._counts = state["counts"].astype(np.int64)
        self._pulled = state["pulled"].astype(np.int64)
        self._num_steps = state["num_steps"].astype(np.int64)
        self._pulled_at_s = state["pulled_at_s"].astype(np.float64)
        self._return_at_s = state["return_at_s"].astype(np.float64)
        self._now_s = float(state["now_s"][0])
        self._index()
