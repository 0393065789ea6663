"""Markov availability: every worker turns on and off as a Markov chain of its own."""

import numpy as np
from numpy.typing import NDArray

from configs.arrivals import Markov
from configs.federated import FederatedExperiment
from tasks.federated.arrivals.interface import Floats, Ints
from tasks.federated.arrivals.rounds import RoundArrivals
from tasks.federated.local_steps import StepLaw
from tasks.federated.randomness import Stream, generator
from tasks.runtime.errors import JobError, Reason

_MOST_ROUNDS_WAITED = 10_000


class MarkovArrivals(RoundArrivals):
    """A uniform sample, without replacement, of the workers that are on.

    The chains start in their stationary law. While fewer than m workers are on, rounds pass on the
    virtual clock without an update.
    """

    def __init__(
        self, config: Markov, experiment: FederatedExperiment, draw_steps: StepLaw
    ) -> None:
        super().__init__(config, experiment, draw_steps)
        self._turn_on, self._turn_off = config.turn_on, config.turn_off
        self._absent = list(config.never_return)
        self._round = 0
        # The round in which version v came to be stands at v modulo the length. A buffer needs its
        # own versions (version - max_delay .. version) and the one that it makes.
        self._made_in: Ints = np.zeros(min(config.max_delay, experiment.rounds) + 2, dtype=np.int64)
        share_on = self._turn_on / (self._turn_on + self._turn_off)
        self._is_on = self._switches() < share_on
        self._is_on[self._absent] = False

    def _pick(self, version: int) -> Ints:
        for _ in range(_MOST_ROUNDS_WAITED):
            self._pass_round()
            present = np.flatnonzero(self._is_on)
            if len(present) >= self._collect:
                self._made_in[(version + 1) % len(self._made_in)] = self._round
                return self._draws(version).choice(present, self._collect, replace=False)
        raise JobError(
            Reason.ARRIVALS,
            f"fewer than collect={self._collect} workers were on in each of "
            f"{_MOST_ROUNDS_WAITED} virtual rounds (after {version} updates); lower "
            "algorithm.collect, raise arrivals.turn_on or lower arrivals.turn_off",
        )

    def _pass_round(self) -> None:
        self._round += 1
        switches = self._switches()
        self._is_on = np.where(self._is_on, switches >= self._turn_off, switches < self._turn_on)
        self._is_on[self._absent] = False

    def _switches(self) -> Floats:
        return generator(self._seed, Stream.AVAILABILITY, self._round).random(self._workers)

    def _made_at_s(self, version: Ints) -> Floats:
        return super()._made_at_s(self._made_in[version % len(self._made_in)])

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here."""
        return super().state() | {
            "is_on": self._is_on.copy(),
            "made_in": self._made_in.copy(),
            "round": np.array([self._round]),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""
        super().restore(state)
        self._is_on = state["is_on"].astype(np.bool_)
        self._made_in = state["made_in"].astype(np.int64)
        self._round = int(state["round"][0])
