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
