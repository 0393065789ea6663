"""One token bucket for all calls to Slurm that a user's processes make on a cluster.

It lies in the ledger, so that neither a second process nor a restart gets a fresh one. What matters
most may take the last tokens; what can wait leaves some for it.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.ledger_file import LedgerFile


class Urgency(Enum):
    """How much a call matters."""

    CANCEL = "cancel"
    """A user waits for it: it may overdraw the bucket, to a floor; later calls pay for it."""
    LOOK = "look"
    """The regular listing, and what jobs in doubt need, or those that are to avoid a lost node."""
    SUBMIT = "submit"
    CONFIRM = "confirm"
    """Looks between the regular ones, which only make things faster: from the upper half."""


MOST_OWED = 10.0
"""So many tokens the bucket may be overdrawn: what can wait is held back for minutes, no longer."""
_LEFT_FOR_OTHERS = {Urgency.CANCEL: 1 - MOST_OWED, Urgency.LOOK: 1, Urgency.SUBMIT: 2}
"""A look for a cancellation leaves one for the scancel that follows it."""


@dataclass(frozen=True)
class Rate:
    """Size and refill of a bucket.

    Attributes:
        capacity: Most tokens.
        per_minute: Tokens that come back in a minute.
    """

    capacity: float
    per_minute: float

    def left_by(self, urgency: Urgency) -> float:
        """Return how many tokens a call leaves to more urgent ones."""
        if urgency is Urgency.CONFIRM:
            return self.capacity / 2
        return _LEFT_FOR_OTHERS[urgency]

    def refilled(self, tokens: float, elapsed_s: float) -> float:
        """Return the tokens after some time; a clock that was set back adds none."""
        return min(self.capacity, tokens + max(0.0, elapsed_s) * self.per_minute / 60)


def narrowest(launchers: Sequence[SlurmLauncherConfig]) -> Rate:
    """Return the rate that keeps to the limits of all studies that have jobs.

    Args:
        launchers: How these studies submit their jobs.

    Returns:
        The smallest size and the slowest refill; the default ones if no study has jobs.
    """
    known = launchers or [SlurmLauncherConfig()]
    return Rate(
        capacity=min(one.call_burst for one in known),
        per_minute=min(one.calls_per_minute for one in known),
    )


class TokenBucket:
    """The bucket of a ledger.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def take(self, rate: Rate, urgency: Urgency, now_s: float, *, calls: int = 1) -> float:
        """Take tokens, if there are enough.

        Args:
            rate: Size and refill.
            urgency: How much the calls matter.
            now_s: Unix time.
            calls: How many.

        Returns:
            0 if they were taken, else the seconds after which it is worth asking again.
        """
        with self._file.transaction() as connection:
            tokens = _refilled(connection, rate, now_s) - calls
            missing = rate.left_by(urgency) - tokens
            # A millionth, as refills are sums of fractions.
            if missing > 1e-6:
                return missing * 60 / rate.per_minute
            _put(connection, tokens, now_s)
        return 0.0

    def charge(self, rate: Rate, now_s: float, *, calls: int = 1) -> None:
        """Take tokens for calls that wait for none: as many as can be owed.

        Args:
            rate: Size and refill.
            now_s: Unix time.
            calls: How many.
        """
        with self._file.transaction() as connection:
            tokens = _refilled(connection, rate, now_s) - calls
            _put(connection, max(tokens, -MOST_OWED), now_s)


def _refilled(connection: sqlite3.Connection, rate: Rate, now_s: float) -> float:
    row = connection.execute("SELECT tokens, updated_s FROM bucket").fetchone()
    before, updated_s = row or (rate.capacity, now_s)
    if updated_s > now_s:  # a clock was ahead: nothing comes back before its time else
        connection.execute("UPDATE bucket SET updated_s = ?", (now_s,))
    return rate.refilled(before, now_s - updated_s)


def _put(connection: sqlite3.Connection, tokens: float, now_s: float) -> None:
    connection.execute("DELETE FROM bucket")
    connection.execute("INSERT INTO bucket VALUES (?, ?)", (tokens, now_s))
