"""The token bucket that all calls to Slurm are paid from."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.slurm.bucket import MOST_OWED, Rate, TokenBucket, Urgency
from tasks.slurm.ledger_file import LedgerFile

RATE = Rate(capacity=10, per_minute=6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "ledger.sqlite"


def _empty(bucket: TokenBucket, rate: Rate, urgency: Urgency, now_s: float) -> int:
    """Take until nothing is left for an urgency, and count."""
    count = 0
    while not bucket.take(rate, urgency, now_s):
        count += 1
    return count


def test_a_full_bucket_allows_a_burst_and_no_more(path: Path) -> None:
    """Ten tokens are nine looks: one token is left to cancellations."""
    bucket = TokenBucket(LedgerFile(path))

    count = _empty(bucket, RATE, Urgency.LOOK, 0.0)

    assert count == 9


def test_what_can_wait_leaves_tokens_to_what_cannot(path: Path) -> None:
    """Confirmations take the upper half, submissions all but two, looks all but one."""
    bucket = TokenBucket(LedgerFile(path))

    counts = [
        _empty(bucket, RATE, urgency, 0.0)
        for urgency in (Urgency.CONFIRM, Urgency.SUBMIT, Urgency.LOOK)
    ]

    assert counts == [5, 3, 1]


def test_a_cancellation_waits_for_no_refill(path: Path) -> None:
    """It overdraws the bucket, and what comes later waits until that is paid."""
    bucket = TokenBucket(LedgerFile(path))
    _empty(bucket, RATE, Urgency.LOOK, 0.0)

    waits = [bucket.take(RATE, Urgency.CANCEL, 0.0) for _ in range(4)]
    wait_s = bucket.take(RATE, Urgency.LOOK, 0.0)

    # 1 - 4 tokens are there; a look needs 2, which is 5 away: 50 s at 6 a minute.
    assert waits == [0.0] * 4
    assert wait_s == pytest.approx(50.0)


def test_a_debt_has_a_floor(path: Path) -> None:
    """Whatever is asked for: then cancellations, too, wait for what comes back."""
    bucket = TokenBucket(LedgerFile(path))

    count = _empty(bucket, RATE, Urgency.CANCEL, 0.0)
    bucket.charge(RATE, 0.0)  # the scancel that follows the last look
    wait_s = bucket.take(RATE, Urgency.CANCEL, 0.0)
    for _ in range(100):
        bucket.charge(RATE, 0.0)

    # 10 tokens and 9 of the 10 that can be owed; at 6 a minute two more take 20 s.
    assert count == 19
    assert wait_s == pytest.approx(20.0)
    assert bucket.take(RATE, Urgency.LOOK, 0.0) == pytest.approx((MOST_OWED + 2) * 10.0)


def test_the_wait_that_is_told_is_enough_and_not_too_long(path: Path) -> None:
    """Just before the time that was told nothing is given, at that time it is."""
    bucket = TokenBucket(LedgerFile(path))
    _empty(bucket, RATE, Urgency.SUBMIT, 0.0)

    wait_s = bucket.take(RATE, Urgency.SUBMIT, 0.0)

    assert wait_s == pytest.approx(10.0)
    assert bucket.take(RATE, Urgency.SUBMIT, wait_s - 0.1) > 0
    assert bucket.take(RATE, Urgency.SUBMIT, wait_s) == 0


def test_processes_and_restarts_share_one_bucket(path: Path) -> None:
    """Whoever opens the same ledger finds what the others have left."""
    first, second = TokenBucket(LedgerFile(path)), TokenBucket(LedgerFile(path))

    counts = [_empty(one, RATE, Urgency.LOOK, 0.0) for one in (first, second)]

    assert counts == [9, 0]


def test_a_clock_that_is_set_back_gives_nothing(path: Path) -> None:
    """Neither tokens nor a wait for ever come of it."""
    bucket = TokenBucket(LedgerFile(path))
    _empty(bucket, RATE, Urgency.LOOK, 1000.0)

    wait_s = bucket.take(RATE, Urgency.LOOK, 0.0)
    later = bucket.take(RATE, Urgency.LOOK, 0.0 + wait_s)

    assert wait_s == pytest.approx(10.0)
    assert later == 0.0


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 100), st.sampled_from([Urgency.LOOK, Urgency.SUBMIT])), max_size=40
    )
)
def test_no_more_than_a_burst_and_the_refill_in_any_span(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, Urgency]]
) -> None:
    """Over any time the calls are at most the capacity and what has come back since."""
    bucket = TokenBucket(LedgerFile(tmp_path_factory.mktemp("bucket") / "ledger.sqlite"))
    now_s, taken = 0.0, 0

    for elapsed_s, urgency in steps:
        now_s += elapsed_s
        while not bucket.take(RATE, urgency, now_s):
            taken += 1

    assert taken <= RATE.capacity + now_s * RATE.per_minute / 60 + 1e-6 * len(steps)
