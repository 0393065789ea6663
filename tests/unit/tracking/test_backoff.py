"""When a failed request is tried again."""

from tasks.tracking.backoff import Backoff
from tasks.tracking.errors import TrackingError


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_a_minute() -> None:
    """Failures in a row wait 1, 2, 4, ... and never more than 60 s."""
    backoff = Backoff(_Clock())

    waits = []
    for _ in range(8):
        backoff.failed(TrackingError("down"))
        waits.append(backoff.remaining_s)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_success_forgets_the_failures() -> None:
    """After a success the next failure waits as briefly as the first."""
    clock = _Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.failed(TrackingError("down"))

    clock.now += 16
    was_due = backoff.remaining_s == 0
    backoff.succeeded()
    error_after = backoff.error
    backoff.failed(TrackingError("down again"))

    assert was_due
    assert error_after is None
    assert (backoff.error, backoff.remaining_s) == ("down again", 1)


def test_permanent_errors_wait_longest_at_once() -> None:
    """What somebody has to mend is not asked for every second."""
    backoff = Backoff(_Clock())

    backoff.failed(TrackingError("deleted", permanent=True))

    assert backoff.remaining_s == 60


def test_a_wait_can_be_cut_short() -> None:
    """At the end of a study an attempt is due at once; the error stands until one succeeds."""
    backoff = Backoff(_Clock())
    backoff.failed(TrackingError("deleted", permanent=True))

    backoff.cut_short()

    assert (backoff.remaining_s, backoff.error) == (0, "deleted")
