"""Keeps MLflow up to date while a flow waits for its jobs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.cursor import read_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.store import open_store
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker
from tasks.tracking.views import view_address

_POLL_S = 1.0


@contextmanager
def followed(tracker: StudyTracker) -> Iterator[None]:
    """Poll a tracker in a thread of its own, so that a slow MLflow delays no job.

    Args:
        tracker: The tracker; nobody else may use it inside the block.

    Yields:
        Nothing.
    """
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_S):
            tracker.poll()

    thread = threading.Thread(target=poll, name="follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def comparison_address(directory: StudyDirectory, tracking_uri: str) -> str:
    """Return where an MLflow server shows the curves of all points of a study.

    Args:
        directory: The study's directory.
        tracking_uri: Where its runs are.

    Returns:
        The part of the address behind the server's; empty if MLflow does not have the runs.
    """
    try:
        study = directory.read_study()
        experiment_id = open_store(tracking_uri).experiment(study.name, study.description)
    except TrackingError:
        return ""
    parent_run_id = read_cursor(RunDirectory(directory.path), tracking_uri).run_id
    return view_address(experiment_id, parent_run_id) if parent_run_id else ""
