"""Keeps MLflow up to date while a flow waits for its jobs."""

import contextvars
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import get_run_logger

from tasks.steps.links import StudyLink
from tasks.tracking.follower import Followed
from tasks.tracking.refusals import redacted
from tasks.tracking.tracker import StudyTracker

_POLL_S = 1.0
_UNFORESEEN = "a fault of tracking itself, to be reported:\n%s"


@contextmanager
def followed(tracker: StudyTracker, link: StudyLink) -> Iterator[None]:
    """Poll a tracker in a thread of its own, so that a slow MLflow delays no job.

    What MLflow does not take is said in the log, once for each reason.

    Args:
        tracker: The tracker; nobody else may use it inside the block.
        link: The link to what it has sent.

    Yields:
        Nothing.
    """
    stop = threading.Event()
    logger = get_run_logger()

    def poll() -> None:
        told = ""
        while not stop.wait(_POLL_S):
            details = ""
            try:
                error = tracker.poll().error or ""
                link.show()
            except OSError as full:  # a disk; the thread is to go on
                error = str(full)
            except Exception as unforeseen:  # noqa: BLE001  nobody else would send anything
                error, details = _told(unforeseen)
            if error and error != told:
                logger.warning("%s; the study goes on, and what is missing is sent later", error)
                if details:
                    logger.error(_UNFORESEEN, details)
            told = error

    # Of this flow run: what is logged and shown belongs to it.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(poll,), name="follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def catch_up(tracker: StudyTracker) -> None:
    """Send what the last jobs have left, before the report says what MLflow has not taken.

    Args:
        tracker: The tracker; ``finish`` tells what goes wrong.
    """
    with suppress(Exception):
        tracker.poll()


def finish(tracker: StudyTracker, patience_s: float) -> Followed:
    """Send the rest when all jobs have ended; whatever goes wrong, the study has run.

    Args:
        tracker: The tracker.
        patience_s: See ``StudyTracker.close``.

    Returns:
        What was sent, and what is still wrong.
    """
    try:
        return tracker.close(patience_s)
    except Exception as unforeseen:  # noqa: BLE001  it would fail a study whose jobs have finished
        error, details = _told(unforeseen)
        get_run_logger().error(_UNFORESEEN, details)
        return Followed(0, error)


def _told(unforeseen: Exception) -> tuple[str, str]:
    """Return a line about an exception, and where it was raised; both without passwords."""
    line = f"{type(unforeseen).__name__}: {unforeseen}".strip().splitlines()[0]
    details = "".join(traceback.format_exception(unforeseen))
    return redacted(line), redacted(details)
