"""When the leader looks at Slurm next, and how urgently."""

import math

from tasks.slurm.bucket import Rate, Urgency

_SHORTEST_INTERVAL_S = 30.0
_SHARE_OF_REFILL = 0.25
_AGAIN_S = (0.3, 0.7, 1.5, 3.0, 6.0, 12.0)
_UNANSWERED_S = (2.0, 4.0, 8.0, 16.0, 30.0)
_ORDER = (Urgency.CANCEL, Urgency.LOOK, Urgency.CONFIRM)


def interval_s(rate: Rate) -> float:
    """Return how long nothing need be asked if nothing happens.

    Args:
        rate: Of the bucket.

    Returns:
        Half a minute; more if that were over a quarter of what comes back into the bucket.
    """
    return max(_SHORTEST_INTERVAL_S, 60.0 / (rate.per_minute * _SHARE_OF_REFILL))


class Agenda:
    """The looks to come. All times are of the steady clock."""

    def __init__(self) -> None:
        self._regular_s = -math.inf
        self._asked_s: dict[Urgency, set[float]] = {urgency: set() for urgency in _ORDER}
        self._num_unanswered = 0
        self._num_confirmed = 0

    def ask(self, urgency: Urgency, at_s: float) -> None:
        """Ask for a look."""
        self._asked_s[urgency].add(at_s)

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
        else:
            delay_s = _UNANSWERED_S[min(self._num_unanswered, len(_UNANSWERED_S) - 1)]
            self._num_unanswered += 1
            self._regular_s = now_s + delay_s
        for urgency, asked in self._asked_s.items():
            self._asked_s[urgency] = {at_s for at_s in asked if at_s > now_s}
        if is_answered:  # that was a confirmation, too
            self._asked_s[Urgency.CONFIRM].clear()
