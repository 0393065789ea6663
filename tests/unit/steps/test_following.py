"""MLflow is kept up to date beside the jobs, whatever happens to it."""

import logging
import threading
from typing import cast

import pytest

from tasks.steps import following
from tasks.steps.links import StudyLink
from tasks.tracking.follower import Followed
from tasks.tracking.tracker import StudyTracker


class _Full:
    """Finds the disk full at first; stands for a tracker and for a link."""

    def __init__(self) -> None:
        self.num_polls = 0
        self.is_shown = threading.Event()

    def poll(self) -> Followed:
        self.num_polls += 1
        if self.num_polls < 3:
            raise OSError(28, "No space left on device")
        return Followed(0, None, 0.0)

    def show(self) -> None:
        self.is_shown.set()


class _Broken:
    """A tracker with a fault that nobody has foreseen."""

    def __init__(self) -> None:
        self.num_polls = 0
        self.is_polled_again = threading.Event()

    def poll(self) -> Followed:
        self.num_polls += 1
        if self.num_polls > 3:
            self.is_polled_again.set()
        raise KeyError("http://alice:s3cret@mlflow.site:5000")

    def close(self, _: float) -> Followed:
        return self.poll()


def test_a_full_disk_is_told_once_and_does_not_end_the_following(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once there is room, what is missing is sent."""
    full = _Full()
    monkeypatch.setattr(following, "_POLL_S", 0.01)
    monkeypatch.setattr(following, "get_run_logger", lambda: logging.getLogger("flow"))

    with following.followed(cast("StudyTracker", full), cast("StudyLink", full)):
        assert full.is_shown.wait(10)

    assert [record.message for record in caplog.records] == [
        "[Errno 28] No space left on device; the study goes on, and what is missing is sent later"
    ]


def test_an_unforeseen_fault_is_told_once_and_does_not_end_the_following(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With where it was raised, in the flow run's log, and without a password."""
    broken = _Broken()
    monkeypatch.setattr(following, "_POLL_S", 0.01)
    monkeypatch.setattr(following, "get_run_logger", lambda: logging.getLogger("flow"))

    with following.followed(cast("StudyTracker", broken), cast("StudyLink", _Full())):
        assert broken.is_polled_again.wait(10)

    told, details = (record.message for record in caplog.records)
    assert told == (
        "KeyError: 'http://***@mlflow.site:5000'; the study goes on, and what is missing is sent "
        "later"
    )
    assert "Traceback" in details
    assert "s3cret" not in details


def test_a_tracker_that_fails_at_the_end_fails_no_study(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All jobs have finished by then; what is wrong is told, and resume sends the rest."""
    monkeypatch.setattr(following, "get_run_logger", lambda: logging.getLogger("flow"))
    broken = cast("StudyTracker", _Broken())

    following.catch_up(broken)
    closed = following.finish(broken, 0.0)

    assert closed.error == "KeyError: 'http://***@mlflow.site:5000'"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
