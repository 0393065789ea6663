"""What an arrival process is: it fills one buffer after the other.

Processes live on a virtual clock and use no wall time. All randomness comes from
``tasks.federated.randomness`` keyed by the round (or the return), never from carried generators, so
that a process restored from ``state()`` goes on with the same draws.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arrivals:
    """Who fills one buffer of m returns, in order of arrival.

    Attributes:
        worker: Worker ids, shape (m,).
        pulled: The model version that each pulled, shape (m,).
        num_steps: Local steps of each, shape (m,), at least 1.
        sequence: How many returns that worker had made before, dropped ones included, shape (m,);
            with the worker's id it names a return once and for all, and keys its random draws.
        pulled_at_s: Virtual time of each pull, shape (m,).
        returned_at_s: Virtual time of each return, shape (m,), not decreasing. Of real workers it
            is when the server took it (``ReturnLine.taken_at_s``), s since the run began: when they
            say that they returned is by clocks of their own, and a return may lie in the spool
            while later ones are taken.
        released: Versions that, after this buffer, no worker in flight holds any more and none can
            pull again. Each version is released once at most.
        num_dropped: Returns that were older than the maximum delay, and dropped.
    """

    worker: Ints
    pulled: Ints
    num_steps: Ints
    sequence: Ints
    pulled_at_s: Floats
    returned_at_s: Floats
    released: tuple[int, ...] = ()
    num_dropped: int = 0


class ArrivalProcess(Protocol):
    """Who returns when, how stale, after how many local steps."""

    def next_buffer(self, version: int) -> Arrivals:
        """Return the buffer that makes ``version`` into ``version + 1``.

        Called once a version, in order. The server's model at this call is x_version.
        """
        ...

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here, as named arrays."""
        ...

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""
        ...
