"""Clocks for the fakes: one that the test moves, and the machine's own."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and lets it pass."""

    def now(self) -> float:
        """Return the Unix time."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        ...


class VirtualClock:
    """A clock that stands still unless somebody waits for it.

    Args:
        start_s: Unix time to start at.
    """

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Return the Unix time."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let time pass, at once."""
        self._now_s += max(seconds, 0.0)


class RealClock:
    """The clock of the machine."""

    def now(self) -> float:
        """Return the Unix time."""
        return time.time()

    def advance(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(max(seconds, 0.0))
