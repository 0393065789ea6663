"""When the leader looks at Slurm next, and how urgently."""

import math

from tasks.slurm.bucket import Rate, Urgency

_SHORTEST_INTERVAL_S = 30.0
_SHARE_OF_REFILL = 0.25
_AGAIN_S = (0.3, 0.7, 1.5, 3.0, 6.0, 12.0)
_UNANSWERED_S = (2.0, 4.0, 8.0, 16.0, 30.0)
_MOST_WITH_WISH_S = 8.0
"""A wish is to be carried out within ten seconds of the first answer."""
_ORDER = (Urgency.CANCEL, Urgency.LOOK, Urgency.CONFIRM)


def interval_s(rate: Rate) -> float:
    """Return how long nothing need be asked if nothing happens.

    Args:
        rate: Of the bucket.

    Returns:
        Half a minute; more if that were over a quarter of what comes back into the bucket.
    """
    return max(_SHORTEST_INTERVAL_S, 60.0 / (rate.per_minute * _SHARE_OF_REFILL))


def unanswered_s(times: int, *, with_wish: bool = False) -> float:
    """Return how long to wait after a call that was not answered.

    Args:
        times: How many have not been, one after the other, this one included.
        with_wish: Whether a cancellation waits for it.
    """
    delay_s = _UNANSWERED_S[min(times, len(_UNANSWERED_S)) - 1]
    return min(delay_s, _MOST_WITH_WISH_S) if with_wish else delay_s


class Agenda:
    """The looks to come. All times are of the steady clock."""

    def __init__(self) -> None:
        self._regular_s = -math.inf
        self._insisted_s = -math.inf
        self._asked_s: dict[Urgency, set[float]] = {urgency: set() for urgency in _ORDER}
        self._num_unanswered = 0
        self._num_confirmed = 0

    def ask(self, urgency: Urgency, at_s: float) -> None:
        """Ask for a look."""
        self._asked_s[urgency].add(at_s)

    def insist(self, now_s: float, *, is_news: bool) -> None:
        """Ask for a look for a cancellation: at once, unless Slurm does not answer.

        Args:
            now_s: The time.
            is_news: Whether there has been no look for it; one is worth a try in any case.
        """
        self.ask(Urgency.CANCEL, now_s if is_news else max(now_s, self._insisted_s))

    def confirm(self, now_s: float, *, is_news: bool) -> None:
        """Ask for a look that confirms what a node has left; each next one comes later.

        Args:
            now_s: The time.
            is_news: Whether the node has left something new; the delays then begin anew.
        """
        if is_news:
            self._num_confirmed = 0
        is_asked = any(at_s >= now_s for at_s in self._asked_s[Urgency.CONFIRM])
        if not is_asked and self._num_confirmed < len(_AGAIN_S):
            self.ask(Urgency.CONFIRM, now_s + _AGAIN_S[self._num_confirmed])
            self._num_confirmed += 1

    def due(self, now_s: float) -> Urgency | None:
        """Return the most urgent of the looks whose time has come; None if there is none."""
        for urgency in _ORDER:
            is_regular = urgency is Urgency.LOOK and self._regular_s <= now_s
            if is_regular or any(at_s <= now_s for at_s in self._asked_s[urgency]):
                return urgency
        return None

    def looked(self, now_s: float, rate: Rate, *, is_answered: bool) -> None:
        """Cross off what is done, and put down the next regular look, sooner without an answer."""
        if is_answered:
            self._num_unanswered = 0
            self._regular_s = now_s + interval_s(rate)
            self._insisted_s = -math.inf
        else:
            self._num_unanswered += 1
            self._regular_s = now_s + unanswered_s(self._num_unanswered)
            self._insisted_s = now_s + unanswered_s(self._num_unanswered, with_wish=True)
        for urgency, asked in self._asked_s.items():
            self._asked_s[urgency] = {at_s for at_s in asked if at_s > now_s}
        if is_answered:  # that was a confirmation, too
            self._asked_s[Urgency.CONFIRM].clear()
