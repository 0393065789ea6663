"""Where MLflow shows a study and its points: links in Prefect as soon as there is what to see."""

import contextlib
from pathlib import Path

from prefect import get_run_logger

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.reading import load_record
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.artifacts import SHOWN
from tasks.steps.flow_record import FlowRecord, read_flow_record, write_flow_record
from tasks.steps.reporting import artifact_key
from tasks.tracking.addresses import LOCAL, hidden_password, opening_command, server_address
from tasks.tracking.cursor import Cursor, read_cursor
from tasks.tracking.damage import label_of_run
from tasks.tracking.errors import TrackingError
from tasks.tracking.store import open_store
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.views import view_address


class StudyLink:
    """The link to the comparison of a study's points, shown once it exists.

    Args:
        directory: The study's directory, with ``flow.json``.
        tracking_uri: Where its runs are.
    """

    def __init__(self, directory: StudyDirectory, tracking_uri: str) -> None:
        self._directory = directory
        self._tracking_uri = tracking_uri
        self._record: FlowRecord | None = None
        self._is_shown = False

    def show(self) -> None:
        """Show it if it can be; to be called where the tracker is polled.

        Raises:
            OSError: ``flow.json`` cannot be written.
        """
        if self._is_shown:
            return
        if self._record is None:
            self._record = with_comparison(self._directory, self._tracking_uri)
            if self._record is None:
                return
            get_run_logger().info("compare in MLflow: %s", self._where(self._record))
        self._is_shown = self._send(self._record)

    def finish(self) -> None:
        """Show what could not be shown before, and the runs of all points in one table.

        The job of a point may end before MLflow has heard of it.

        Raises:
            OSError: ``flow.json`` cannot be written.
        """
        self.show()
        addresses = {
            label_of_run(run): address
            for run in self._directory.points()
            if (address := point_address(run))
        }
        if addresses:
            name = self._directory.read_study().name
            rows = "\n".join(
                f"| {label.replace('|', '/')} | [{address}]({address}) |"
                for label, address in addresses.items()
            )
            text = f"# Runs in MLflow\n\n| point | run |\n| --- | --- |\n{rows}\n"
            SHOWN.markdown(text, f"The runs of {name}", artifact_key(f"mlflow runs {name}"))

    def _where(self, record: FlowRecord) -> str:
        if server := server_address(self._tracking_uri):
            return f"{server}{record.comparison}"
        return f"{opening_command(self._tracking_uri)}, then open {LOCAL}{record.comparison}"

    def _send(self, record: FlowRecord) -> bool:
        name = self._directory.read_study().name
        key, told = artifact_key(f"mlflow {name}"), f"The points of {name}, side by side"
        if server_address(self._tracking_uri):
            return SHOWN.link(self._where(record), "Compare in MLflow", told, key)
        command, address = opening_command(self._tracking_uri), f"{LOCAL}{record.comparison}"
        text = f"# Compare in MLflow\n\n```\n{command}\n```\n\nthen open [{address}]({address})\n"
        return SHOWN.markdown(text, told, key)


def with_comparison(directory: StudyDirectory, tracking_uri: str) -> FlowRecord | None:
    """Write down where MLflow compares the points of a study, once it has the study.

    Args:
        directory: The study's directory, with ``flow.json``.
        tracking_uri: Where its runs are.

    Returns:
        The record, with the address; None if MLflow does not have the study.

    Raises:
        OSError: The record cannot be written.
    """
    record = read_flow_record(directory.path)
    try:
        parent_run_id = read_cursor(RunDirectory(directory.path), tracking_uri).run_id
        if record is None or not parent_run_id:
            return None
        study = directory.read_study()
        experiment_id = open_store(tracking_uri).experiment(study.name, study.description)
    except TrackingError:
        return None
    address = view_address(experiment_id, parent_run_id)
    record = record.model_copy(update={"comparison": address, "experiment_id": experiment_id})
    write_flow_record(directory.path, record)
    return record


def point_address(run: RunDirectory) -> str:
    """Return where an MLflow server shows a point's run.

    Args:
        run: Its run directory, in that of its study.

    Returns:
        The address; empty if there is no server, or it does not have the run yet.
    """
    with contextlib.suppress(OSError, DamagedFileError):
        record = read_flow_record(_study_of(run))
        server = server_address(record.tracking_uri) if record else ""
        if record is None or not server or not record.experiment_id:
            return ""
        # Read, and not by ``read_cursor``, which may write: the tracker is at work on it.
        cursor = load_record(Cursor, run.tracking)
        stores = {hidden_password(cursor.tracking_uri), hidden_password(record.tracking_uri)}
        if len(stores) == 1 and cursor.run_id:
            return f"{server}/#/experiments/{record.experiment_id}/runs/{cursor.run_id}"
    return ""


def _study_of(run: RunDirectory) -> Path:
    return run.path.parent.parent
