"""One token bucket for all calls to Slurm that a user's processes make on a cluster.

It lies in the ledger, so that neither a second process nor a restart gets a fresh one. What matters
most may take the last tokens; what can wait leaves some for it.
"""

from dataclasses import dataclass
from enum import Enum

from tasks.slurm.ledger_file import LedgerFile


class Urgency(Enum):
    """How much a call matters."""

    CANCEL = "cancel"
    """A user waits for it: it may overdraw the bucket; later calls pay for it."""
    LOOK = "look"
    """The regular listing, and what jobs in doubt need."""
    SUBMIT = "submit"
    CONFIRM = "confirm"
    """Looks between the regular ones, which only make things faster: from the upper half."""


_LEFT_FOR_OTHERS = {Urgency.LOOK: 1, Urgency.SUBMIT: 2}


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
            row = connection.execute("SELECT tokens, updated_s FROM bucket").fetchone()
            before, updated_s = row or (rate.capacity, now_s)
            if updated_s > now_s:  # a clock was ahead: nothing comes back before its time else
                connection.execute("UPDATE bucket SET updated_s = ?", (now_s,))
            tokens = rate.refilled(before, now_s - updated_s) - calls
            missing = 0.0 if urgency is Urgency.CANCEL else rate.left_by(urgency) - tokens
            # A millionth, as refills are sums of fractions.
            if missing > 1e-6:
                return missing * 60 / rate.per_minute
            connection.execute("DELETE FROM bucket")
            connection.execute("INSERT INTO bucket VALUES (?, ?)", (tokens, now_s))
        return 0.0
