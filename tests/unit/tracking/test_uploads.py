"""Artifacts that are taken, refused or delayed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.tracking.errors import TrackingError
from tasks.tracking.uploads import Uploads

_A, _B = Path("/runs/s/points/000-a"), Path("/runs/s/points/001-b")


class _Store:
    """Takes what it is told to take, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: dict[str, TrackingError] = {}

    def upload(self, name: str) -> dict[str, Callable[[], str]]:
        def send() -> str:
            self.asked.append(name)
            if fault := self.faults.get(name):
                raise fault
            return ""

        return {name: send}


@pytest.fixture
def store() -> _Store:
    """A store that takes everything."""
    return _Store()


def test_what_was_taken_is_not_sent_again(store: _Store) -> None:
    """Until the run begins again, when the same names have other content."""
    uploads = Uploads()
    before = uploads.is_due(_A)
    for _ in range(2):
        uploads.send(_A, store.upload("job.json"))
    settled = uploads.is_due(_A)
    uploads.begin_run(_A)
    uploads.send(_A, store.upload("job.json"))

    assert (before, settled) == (True, False)
    assert store.asked == ["job.json", "job.json"]
    assert (uploads.told, uploads.untaken(_A), uploads.delayed) == ("", "", None)


def test_what_is_refused_stays_and_the_others_go(store: _Store) -> None:
    """It is told with where it is; tried again only once somebody may have acted."""
    store.faults["model"] = TrackingError("413", permanent=True)
    uploads = Uploads()

    for _ in range(2):
        uploads.begin_attempt()
        uploads.send(_A, store.upload("model") | store.upload("result.json"))
    told = (uploads.told, uploads.untaken(_A), uploads.is_due(_A), uploads.delayed)
    del store.faults["model"]
    uploads.retry_refused()
    is_due = uploads.is_due(_A)
    uploads.send(_A, store.upload("model"))

    assert told == (f"413 (model stays in {_A})", f"413 (model stays in {_A})", False, None)
    assert store.asked == ["model", "result.json", "model"]
    assert is_due
    assert (uploads.told, uploads.untaken(_A)) == ("", "")


def test_what_is_delayed_is_sent_by_the_next_attempt(store: _Store) -> None:
    """And only that."""
    store.faults["model"] = TrackingError("507")
    uploads = Uploads()
    uploads.send(_A, store.upload("model") | store.upload("result.json"))
    delayed = (str(uploads.delayed), uploads.is_due(_A), uploads.untaken(_A))

    del store.faults["model"]
    uploads.begin_attempt()
    uploads.send(_A, store.upload("model") | store.upload("result.json"))

    assert delayed == ("507", True, "507")
    assert store.asked == ["model", "result.json", "model"]
    assert (uploads.delayed, uploads.is_due(_A), uploads.untaken(_A)) == (None, False, "")


def test_nobody_waits_twice_for_a_store_that_does_not_answer(store: _Store) -> None:
    """After the first one that waited in vain nothing is tried before the next attempt."""
    store.faults["a"] = TrackingError("does not answer", unanswered=True)
    uploads = Uploads()
    uploads.send(_A, store.upload("a") | store.upload("a2"))
    uploads.send(_B, store.upload("b"))
    asked = list(store.asked)
    is_due = uploads.is_due(_B)

    store.faults.clear()
    uploads.begin_attempt()
    uploads.send(_B, store.upload("b"))
    uploads.send(_A, store.upload("a") | store.upload("a2"))

    assert (asked, is_due) == (["a"], True)
    assert store.asked == ["a", "b", "a", "a2"]
    assert uploads.delayed is None
