"""Keeps MLflow up to date while a flow waits for its jobs."""

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger

from tasks.steps.links import StudyLink
from tasks.tracking.tracker import StudyTracker

_POLL_S = 1.0


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
            try:
                error = tracker.poll().error or ""
                link.show()
            except OSError as full:  # a disk; the thread is to go on
                error = str(full)
            if error and error != told:
                logger.warning("%s; the study goes on, and what is missing is sent later", error)
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
