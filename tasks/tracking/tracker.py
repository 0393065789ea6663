"""Keeps a whole study in MLflow up to date, from its directory alone.

The directory is all there is to know, so a tracker can be killed, started again, or started for the
first time after everything has run: it ends with the same runs in MLflow.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

from tasks.runtime.errors import DamagedFileError
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
    begin_again,
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
from tasks.tracking.uploads import Uploads, configuration_uploads, file_uploads

_RETRY_REFUSED_S = 60.0


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
        DamagedFileError: ``study.json`` is cut off, or of another version.
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
        self._refused: dict[Path, tuple[str, float]] = {}
        self._uploads = Uploads()
        self._num_sent = 0

    def poll(self) -> Followed:
        """Send what is new, unless MLflow failed so recently that it is too early to try.

        Returns:
            What was sent, and what went wrong.
        """
        return self._attempt(over=False)

    def close(self, patience_s: float = 60.0) -> Followed:
        """Send the rest and the report, when all jobs have ended; and what was refused, once more.

        Args:
            patience_s: How long to try again while MLflow does not answer. What is missing then
                is sent by another tracker for the same directory, at any time.

        Returns:
            What was sent, and what is still wrong.
        """
        deadline = self._clock() + patience_s
        self._backoff.cut_short()
        self._uploads.retry_refused()
        self._uploads.begin_run(self._directory.path)
        num_sent = 0
        while True:
            followed = self._attempt(over=True)
            num_sent += followed.num_sent
            if not followed.retry_in_s or self._clock() + followed.retry_in_s > deadline:
                return Followed(num_sent, followed.error, followed.retry_in_s)
            self._sleep(followed.retry_in_s)

    def _attempt(self, *, over: bool) -> Followed:
        self._num_sent = 0
        if not self._backoff.remaining_s:
            try:
                self._advance(over=over)
                self._backoff.succeeded()
            except TrackingError as error:
                self._backoff.failed(error)
            except (OSError, ValueError) as error:  # a full disk, or a file that is none of ours
                self._backoff.failed(TrackingError(f"{self._directory.path}: {error}"))
        refused = next((told for told, _ in self._refused.values()), "")
        untaken = self._backoff.error or refused or self._uploads.told or None
        return Followed(self._num_sent, untaken, self._backoff.remaining_s)

    def _advance(self, *, over: bool) -> None:
        if self._opened is None:
            self._parameters = self._parameters or varying_parameters(self._study)
            self._opened = open_study_run(
                self._store,
                self._directory,
                self._study,
                tags=self._tags,
                varying=chart_axes(self._study, self._parameters),
            )
        self._uploads.begin_attempt()
        study_files = file_uploads(self._store, self._opened[1], [self._directory.study])
        self._uploads.send(self._directory.path, study_files)
        statuses: set[RunStatus] = set()
        delayed: TrackingError | None = None
        for point in self._directory.points():
            if self._clock() < self._not_before(point) and not over:
                continue
            try:
                status = _status(point, over=over)
                statuses.add(status)
                self._advance_point(point, status)
                self._refused.pop(point.path, None)
            except TrackingError as error:
                if error.unanswered:
                    raise
                if error.permanent:
                    self._refuse(point, str(error))  # one deleted run must not hold up the others
                else:
                    delayed = delayed or error
            except DamagedFileError as fault:  # told elsewhere, once
                statuses.add("FAILED")
                self._refuse(point, f"{fault.path} cannot be read")
            except (OSError, ValueError) as error:
                self._refuse(point, f"{point.path}: {error}")
        if over:
            study_run_id = self._opened[1]
            end_study_run(self._store, self._directory, study_run_id, statuses, self._uploads)
        if later := delayed or self._uploads.delayed:
            raise later

    def _refuse(self, point: RunDirectory, reason: str) -> None:
        """Note what keeps a point from MLflow until somebody has acted."""
        self._refused[point.path] = (reason, self._clock() + _RETRY_REFUSED_S)

    def _not_before(self, point: RunDirectory) -> float:
        _, not_before = self._refused.get(point.path, ("", -math.inf))
        return not_before

    def _advance_point(self, point: RunDirectory, status: RunStatus) -> None:
        """Send one point; its status was read before its journal, so that no line comes later."""
        num_attempts = len(point.attempts())
        cursor = read_cursor(point, self._store.tracking_uri)
        is_due = bool(cursor.untaken) and self._uploads.is_due(point.path)
        if not num_attempts:
            if point.predicted_only.exists() and (is_due or not cursor.is_predicted):
                end_predicted_run(self._store, point, self._run_of(point), self._uploads)
                self._leave(point)
            return
        if cursor.num_ended == num_attempts and not is_due:
            return
        run_id = self._run_of(point)
        if cursor.num_ended not in {0, num_attempts}:  # ended before, and was resumed
            begin_again(self._store, point, run_id)
            self._uploads.begin_run(point.path)
        self._num_sent += RunFollower(point, run_id, self._store.tracking_uri).send()
        if status == "RUNNING":
            files = configuration_uploads(self._store, point, run_id)
            self._uploads.send(point.path, files)
        else:
            end_point_run(self._store, point, run_id, status, self._uploads)
            self._leave(point)

    def _leave(self, point: RunDirectory) -> None:
        if not self._uploads.is_due(point.path):
            self._run_ids.pop(point.path)

    def _run_of(self, point: RunDirectory) -> str:
        return self._run_ids.get(point.path) or self._open(point)

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
        self._uploads.begin_run(point.path)
        self._run_ids[point.path] = run_id
        return run_id


def _status(point: RunDirectory, *, over: bool) -> RunStatus:
    status = STATUS[read_state(point, point.read_result())]
    if over and status == "RUNNING" and point.attempts():
        return "KILLED"  # its job is gone and has left no end
    return status
