"""Two lanes of transfers over the links of a machine, and what they take from the computation.

Each lane does one transfer after the other. Where both move over one link at a time, each has half
of it: the shorter transfer takes as much longer as itself, and so does the other one. Times may be
arrays, one element a candidate; then a transfer without any work in some element is none there.
"""

from dataclasses import dataclass, field
from typing import cast

import numpy as np

from tasks.zero.costs.moves import Transfer


@dataclass(eq=False)
class Promise:
    """A transfer under way.

    Attributes:
        end_s: When it is done; later than was thought if another one comes beside it.
    """

    end_s: float


@dataclass(eq=False)
class Lane:
    """Transfers in the order of issue.

    Attributes:
        end_s: When all of them are done.
        promises: Those that nobody has waited for yet.
    """

    end_s: float = 0.0
    promises: list[Promise] = field(default_factory=list)

    def delay(self, begin_s: float, seconds: float) -> None:
        """Make later, by so much at most, what ends after a time."""
        for one in self.promises:
            one.end_s = one.end_s + earlier(seconds, later(one.end_s - begin_s, 0.0))
        self.end_s = self.end_s + earlier(seconds, later(self.end_s - begin_s, 0.0))


class Lanes:
    """The lane of gathers and that of reductions.

    Args:
        num_levels: Levels of the machine.
    """

    def __init__(self, num_levels: int) -> None:
        self.gathers, self.reductions = Lane(), Lane()
        self._links_end_s = [0.0] * num_levels

    def gather(self, transfer: Transfer, now_s: float) -> Promise:
        """Put a transfer into the lane of gathers.

        Args:
            transfer: What it takes.
            now_s: When it is issued.

        Returns:
            When it is done; at once, if there is nothing to do.
        """
        return self._begin(transfer, now_s, self.gathers, self.reductions)

    def reduce(self, transfer: Transfer, now_s: float) -> Promise:
        """Put a transfer into the lane of reductions; see ``gather``."""
        return self._begin(transfer, now_s, self.reductions, self.gathers)

    def _begin(self, transfer: Transfer, now_s: float, own: Lane, other: Lane) -> Promise:
        seconds = transfer.seconds
        if isinstance(seconds, float) and seconds == 0:
            promise = Promise(now_s)
            own.promises.append(promise)
            return promise
        begin = later(own.end_s, now_s) + transfer.encode_s
        delay = 0.0
        for level, seconds in enumerate(transfer.occupied_s):
            if isinstance(seconds, float) and seconds == 0:
                continue
            link_end = self._links_end_s[level]
            delay = later(delay, earlier(seconds, later(link_end - begin, 0.0)))
            used_until = later(link_end, begin) + seconds
            self._links_end_s[level] = where_positive(seconds, used_until, link_end)
        other.delay(begin, delay)
        end = begin + transfer.move_s + delay + transfer.decode_s
        promise = Promise(where_positive(transfer.seconds, end, now_s))
        own.promises.append(promise)
        own.end_s = where_positive(transfer.seconds, end, own.end_s)
        return promise


def later(first: float, second: float) -> float:
    """Return the larger one, of arrays element by element; numpy is slow where there are none."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return cast(float, np.maximum(first, second))
    return max(first, second)


def earlier(first: float, second: float) -> float:
    """Return the smaller one, as ``later`` does the larger."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return cast(float, np.minimum(first, second))
    return min(first, second)


def where_positive(seconds: float, value: float, otherwise: float) -> float:
    """Return the value where there are seconds, the other one elsewhere."""
    if isinstance(seconds, np.ndarray):
        return cast(float, np.where(seconds > 0, value, otherwise))
    return value if seconds > 0 else otherwise
