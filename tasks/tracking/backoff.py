"""When to try again after MLflow did not answer."""

import time
from collections.abc import Callable

from tasks.tracking.errors import TrackingError

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class Backoff:
    """Waits of 1, 2, 4, ... 60 s after failures in a row; nothing here sleeps.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait_s = _FIRST_WAIT_S
        self._not_before = clock()
        self._error: TrackingError | None = None

    @property
    def error(self) -> str | None:
        """Why the last attempt failed; None if it did not."""
        return str(self._error) if self._error else None

    @property
    def remaining_s(self) -> float:
        """Seconds until the next attempt is due; 0 when it is."""
        return max(0.0, self._not_before - self._clock())

    def failed(self, error: TrackingError) -> None:
        """Note a failure."""
        self._error = error
        wait_s = _LONGEST_WAIT_S if error.permanent else self._wait_s
        self._not_before = self._clock() + wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def cut_short(self) -> None:
        """Let the next attempt be due now; what failed is remembered."""
        self._wait_s = _FIRST_WAIT_S
        self._not_before = self._clock()

    def succeeded(self) -> None:
        """Note a success."""
        self._error = None
        self._wait_s = _FIRST_WAIT_S
