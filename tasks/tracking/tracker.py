"""Keeps a whole study in MLflow up to date, from its directory alone.

The directory is all there is to know, so a tracker can be killed, started again, or started for the
first time after everything has run: it ends with the same runs in MLflow.
"""

import time
from collections.abc import Callable
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.backoff import Backoff
from tasks.tracking.cursor import read_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.follower import Followed, RunFollower
from tasks.tracking.history import read_state
from tasks.tracking.nightly_record import night_tags
from tasks.tracking.parameters import chart_axes, varying_parameters
from tasks.tracking.runs import (
    STATUS,
    end_point_run,
    end_study_run,
    open_point_run,
    open_study_run,
)
from tasks.tracking.scaling_runs import end_predicted_run, send_prediction
from tasks.tracking.store import open_store
from tasks.tracking.stored import RunStatus
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tags import common_tags


class StudyTracker:
    """Sends a study's runs to MLflow while they run. MLflow's failures are kept, never raised.

    Args:
        study_dir: The study's directory, with ``study.json``.
        tracking_uri: Where to, see ``store.default_tracking_uri``.
        flow_run_id: Prefect's id of the flow that runs the study.
        clock: Seconds, monotonic.
        sleep: Waits so many seconds.

    Raises:
        OSError: There is no study.
        ValidationError: It is no study.
    """

    def __init__(
        self,
        study_dir: Path,
        tracking_uri: str,
        *,
        flow_run_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = StudyDirectory(study_dir)
        self._study = self._directory.read_study()
        self._store = open_store(tracking_uri)
        self._tags = common_tags(flow_run_id) | night_tags(self._study, study_dir)
        self._backoff = Backoff(clock)
        self._clock, self._sleep = clock, sleep
        self._parameters: dict[str, dict[str, str]] = {}
        self._opened: tuple[str, str] | None = None
        self._run_ids: dict[Path, str] = {}
        self._refused: dict[Path, TrackingError] = {}
        self._reduced = ""

    def poll(self) -> Followed:
        """Send what is new, unless MLflow failed so recently that it is too early to try.

        Returns:
            What was sent, and what went wrong.
        """
        return self._attempt(over=False)

    def close(self, patience_s: float = 60.0) -> Followed:
        """Send the rest and the report, when all jobs have ended.

        Args:
            patience_s: How long to try again while MLflow does not answer. What is missing then
                is sent by another tracker for the same directory, at any time.

        Returns:
            What was sent, and what is still wrong.
        """
        deadline = self._clock() + patience_s
        self._backoff.cut_short()
        num_sent = 0
        while True:
            followed = self._attempt(over=True)
            num_sent += followed.num_sent
            if not followed.retry_in_s or self._clock() + followed.retry_in_s > deadline:
                return Followed(num_sent, followed.error, followed.retry_in_s)
            self._sleep(followed.retry_in_s)

    def _attempt(self, *, over: bool) -> Followed:
        num_sent = 0
        if not self._backoff.remaining_s:
            try:
                num_sent = self._advance(over=over)
                self._backoff.succeeded()
            except TrackingError as error:
                self._backoff.failed(error)
        refused = next((str(error) for error in self._refused.values()), None)
        untaken = self._backoff.error or refused or self._reduced or None
        return Followed(num_sent, untaken, self._backoff.remaining_s)

    def _advance(self, *, over: bool) -> int:
        if self._opened is None:
            self._parameters = self._parameters or varying_parameters(self._study)
            self._opened = open_study_run(
                self._store,
                self._directory,
                self._study,
                tags=self._tags,
                varying=chart_axes(self._study, self._parameters),
            )
        num_sent = 0
        statuses: set[RunStatus] = set()
        for point in self._directory.points():
            try:
                status = _status(point, over=over)
                statuses.add(status)
                num_sent += self._advance_point(point, status)
                self._refused.pop(point.path, None)
            except TrackingError as error:
                if not error.permanent:
                    raise
                self._refused[point.path] = error  # one deleted run must not hold up the others
            except (OSError, ValueError) as error:
                self._refused[point.path] = TrackingError(f"{point.path}: {error}", permanent=True)
        if over:
            end_study_run(self._store, self._directory, self._opened[1], statuses)
        return num_sent

    def _advance_point(self, point: RunDirectory, status: RunStatus) -> int:
        """Send one point; its status was read before its journal, so that no line comes later."""
        num_attempts = len(point.attempts())
        cursor = read_cursor(point, self._store.tracking_uri)
        if not num_attempts and not cursor.is_predicted and point.predicted_only.exists():
            end_predicted_run(self._store, point, self._open(point))
            self._run_ids.pop(point.path)
        if not num_attempts or cursor.num_ended == num_attempts:
            return 0
        run_id = self._run_ids.get(point.path)
        if run_id is None:
            run_id = self._open(point)
            if cursor.num_ended:
                self._store.set_status(run_id, "RUNNING")  # ended before, and was resumed
        num_sent = RunFollower(point, run_id, self._store.tracking_uri).send()
        if status != "RUNNING":
            self._reduced = end_point_run(self._store, point, run_id, status) or self._reduced
            self._run_ids.pop(point.path)
        return num_sent

    def _open(self, point: RunDirectory) -> str:
        if self._opened is None:
            raise AssertionError("points are opened after their study")
        experiment_id, parent_run_id = self._opened
        label = point.read_job().point
        run_id = open_point_run(
            self._store,
            point,
            experiment_id=experiment_id,
            parent_run_id=parent_run_id,
            tags=self._tags,
            parameters=self._parameters.get(label, {}),
        )
        send_prediction(self._store, point, run_id)
        self._run_ids[point.path] = run_id
        return run_id


def _status(point: RunDirectory, *, over: bool) -> RunStatus:
    status = STATUS[read_state(point, point.read_result())]
    if over and status == "RUNNING" and point.attempts():
        return "KILLED"  # its job is gone and has left no end
    return status
