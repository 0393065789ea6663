"""SIGTERM, SIGINT and SIGUSR1: a job stops at once, or after the piece of work that it is in.

A job that is asked to stop is often asked twice within a moment: Slurm signals every process of a
batch script, and the wrapper among them passes the signal on; through ``srun`` as SIGUSR1, for
srun answers SIGTERM by killing its tasks. Signals that come close together are one request.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ONE_REQUEST_S = 1.0  # a busy node may take its time to pass a signal on


class Interrupted(BaseException):
    """The job was asked to stop; it continues from its last checkpoint when started again."""


@dataclass
class StopRequest:
    """Whether the job was asked to stop.

    Attributes:
        made_s: When, on the monotonic clock; None if it was not.
    """

    made_s: float | None = None

    @property
    def is_made(self) -> bool:
        """Whether it was."""
        return self.made_s is not None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a signal interrupt the block at once.

    From the first signal on, and after the block, signals are ignored: the process has only its
    files left to write.

    Yields:
        Nothing.

    Raises:
        Interrupted: A signal came.
    """
    for signum in _SIGNALS:
        signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        _ignore()


@contextmanager
def stop_asked(grace_s: float | None = None) -> Iterator[StopRequest]:
    """Let a signal only be noted inside the block, which then saves what it has and stops.

    A signal that comes later than a moment after the first one interrupts at once. So does the end
    of the grace. After the block, signals are ignored if one came.

    Args:
        grace_s: Seconds that the block has from the first signal on; None if somebody else sees to
            that, as Slurm does.

    Yields:
        The request, to be looked at again and again.

    Raises:
        Interrupted: The block has not stopped in time.
    """
    request = StopRequest()

    def note(signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if request.made_s is None:
            request.made_s = now_s
            if grace_s is not None:
                signal.setitimer(signal.ITIMER_REAL, grace_s)
        elif now_s - request.made_s > _ONE_REQUEST_S:
            _interrupt(signum, frame)

    before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _interrupt)
    try:
        yield request
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if request.is_made:
            _ignore()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    _ignore()
    raise Interrupted


def _ignore() -> None:
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
