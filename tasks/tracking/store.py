"""Runs in MLflow. Beside this, only ``model_store`` knows MLflow. The first call imports it.

What is sent may arrive twice: metrics are rows with the primary key (key, timestamp, step, run,
value), and parameters, tags, status and artifacts are overwritten with what they already say.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from configs.directories import artifact_location
from configs.tracked_names import tracked_name
from tasks.tracking.errors import TrackingError
from tasks.tracking.refusals import translated
from tasks.tracking.stored import MetricPoint, RunStatus, StoredRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS_PER_BATCH = 1000
_MAX_PARAMS_PER_BATCH = 100
_KEY_TAG = "watershed.key"
_OF_TRAININGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens the pages for training, not those for language-model applications (read in 3.17.2)."""
_ENVIRONMENT = {
    # We send again ourselves; MLflow's 7 retries of 120 s would hold a dead server's caller for
    # minutes, and its repeated POST could create a run twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It has the password of the address, and goes to the log of whoever runs the flow.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def default_tracking_uri(runs_root: Path) -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else an SQLite database in the runs' root.

    Args:
        runs_root: Directory of all studies' runs.

    Returns:
        The URI, absolute.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_root.resolve()}/mlflow.db"


@lru_cache
def open_store(tracking_uri: str) -> "Store":
    """Return the store of a URI; one object a URI, which connects when it is first used."""
    return Store(tracking_uri)


class Store:
    """An MLflow tracking store. Every method raises ``TrackingError`` when MLflow refuses.

    Args:
        tracking_uri: ``sqlite:///...`` or ``http(s)://...``.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        for name, value in _ENVIRONMENT.items():  # some are read when MLflow is imported
            os.environ.setdefault(name, value)

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client; for this module and ``model_store`` alone."""
        from mlflow import MlflowClient  # noqa: PLC0415  3 s

        return MlflowClient(self.tracking_uri)

    def experiment(self, name: str, description: str) -> str:
        """Find or create an experiment.

        Args:
            name: Its name.
            description: Shown above its runs, Markdown.

        Returns:
            Its id.

        Raises:
            TrackingError: MLflow is not there, or the experiment was deleted in MLflow.
        """
        with translated(self.tracking_uri):
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return self.client.create_experiment(
                    name,
                    artifact_location=_artifact_location(self.tracking_uri),
                    tags={"mlflow.note.content": description} | _OF_TRAININGS,
                )
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment '{name}' was deleted in MLflow; restore it with: mlflow experiments "
                f"restore --experiment-id {found.experiment_id}",
                permanent=True,
            )
        return str(found.experiment_id)

    def tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an experiment.

        Args:
            experiment_id: The experiment.
            tags: Name -> value.

        Raises:
            TrackingError: MLflow is not there.
        """
        with translated(self.tracking_uri):
            for key, text in tags.items():
                self.client.set_experiment_tag(experiment_id, tracked_name(key), text)

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """Return the tags of an experiment.

        Args:
            experiment_id: The experiment.

        Returns:
            Name -> value.

        Raises:
            TrackingError: MLflow is not there.
        """
        with translated(self.tracking_uri):
            return dict(self.client.get_experiment(experiment_id).tags)

    def untag_experiment(self, experiment_id: str, keys: Sequence[str]) -> None:
        """Delete tags of an experiment.

        Args:
            experiment_id: The experiment.
            keys: Names of tags that it has.

        Raises:
            TrackingError: MLflow is not there, or somebody else has deleted one.
        """
        with translated(self.tracking_uri):
            for key in keys:
                self.client.delete_experiment_tag(experiment_id, key)

    def find_or_create_run(
        self, experiment_id: str, key: str, *, name: str, tags: Mapping[str, str]
    ) -> str:
        """Return the run with a key; a crash between creating and remembering it doubles none.

        Args:
            experiment_id: Its experiment.
            key: What identifies the run for ever, such as a UUID.
            name: Its name.
            tags: Its tags, written when it is created.

        Returns:
            Its id.

        Raises:
            TrackingError: MLflow is not there.
        """
        with translated(self.tracking_uri):
            runs = self._runs_with(experiment_id, key)
            if not runs:
                named = {tracked_name(tag): text for tag, text in tags.items()}
                self.client.create_run(experiment_id, run_name=name, tags={_KEY_TAG: key} | named)
                # Asked again: a request that we gave up waiting for may have been carried out.
                runs = self._runs_with(experiment_id, key)
            for double in runs[1:]:
                self.client.delete_run(double.info.run_id)
            return str(runs[0].info.run_id)

    def _runs_with(self, experiment_id: str, key: str) -> "list[Run]":
        return list(
            self.client.search_runs(
                [experiment_id],
                f"tags.`{_KEY_TAG}` = '{key}'",
                order_by=["attributes.start_time ASC"],
            )
        )

    def runs(
        self, experiment_id: str, condition: str, *, page_size: int = 200
    ) -> Iterator[StoredRun]:
        """Look for runs, page by page as they are asked for.

        Args:
            experiment_id: Their experiment.
            condition: In MLflow's language, such as ``tags.`mlflow.parentRunId` = '...'``.
            page_size: Runs of one request, from 1.

        Yields:
            The runs, the newest first; deleted ones are left out.

        Raises:
            TrackingError: MLflow is not there, or refuses.
        """
        token: str | None = None
        while True:
            with translated(self.tracking_uri):
                page = self.client.search_runs(
                    [experiment_id],
                    condition,
                    max_results=page_size,
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
            for run in page:
                yield StoredRun(
                    run_id=str(run.info.run_id),
                    name=str(run.info.run_name),
                    status=str(run.info.status),
                    tags=dict(run.data.tags),
                    metrics=dict(run.data.metrics),
                )
            token = page.token
            if not token:
                return

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Send points; what is there already stays as it is.

        Args:
            run_id: The run.
            points: Any number.

        Raises:
            TrackingError: Not all of them have arrived.
        """
        with translated(self.tracking_uri):
            from mlflow.entities import Metric  # noqa: PLC0415  3 s

            for start in range(0, len(points), MAX_METRICS_PER_BATCH):
                chunk = points[start : start + MAX_METRICS_PER_BATCH]
                metrics = [
                    Metric(tracked_name(p.key), p.value, p.timestamp_ms, p.step) for p in chunk
                ]
                self.client.log_batch(run_id, metrics=metrics, synchronous=True)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Add the parameters that the run does not have yet; MLflow never changes one.

        Args:
            run_id: The run.
            parameters: Name -> value.

        Raises:
            TrackingError: Not all of them have arrived.
        """
        with translated(self.tracking_uri):
            from mlflow.entities import Param  # noqa: PLC0415  3 s

            present = self.client.get_run(run_id).data.params
            named = {tracked_name(key): text for key, text in parameters.items()}
            missing = [Param(key, text) for key, text in named.items() if key not in present]
            for start in range(0, len(missing), _MAX_PARAMS_PER_BATCH):
                chunk = missing[start : start + _MAX_PARAMS_PER_BATCH]
                self.client.log_batch(run_id, params=chunk, synchronous=True)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags.

        Args:
            run_id: The run.
            tags: Name -> value.

        Raises:
            TrackingError: Not all of them have arrived.
        """
        with translated(self.tracking_uri):
            from mlflow.entities import RunTag  # noqa: PLC0415  3 s

            named = [RunTag(tracked_name(key), text) for key, text in tags.items()]
            self.client.log_batch(run_id, tags=named, synchronous=True)

    def log_files(self, run_id: str, paths: Sequence[Path]) -> None:
        """Upload those files that exist, as artifacts of their own names.

        Args:
            run_id: The run.
            paths: The files.

        Raises:
            TrackingError: Not all of them have arrived.
        """
        with translated(self.tracking_uri):
            for path in paths:
                if path.is_file():
                    self.client.log_artifact(run_id, str(path))

    def experiment_of(self, run_id: str) -> str:
        """Return the id of a run's experiment.

        Args:
            run_id: The run.

        Raises:
            TrackingError: MLflow is not there, or does not know the run.
        """
        with translated(self.tracking_uri):
            return str(self.client.get_run(run_id).info.experiment_id)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Upload a text as an artifact.

        Args:
            run_id: The run.
            text: The text.
            name: Of the artifact.

        Raises:
            TrackingError: It has not arrived.
        """
        with translated(self.tracking_uri):
            self.client.log_text(run_id, text, name)

    def set_status(self, run_id: str, status: RunStatus) -> None:
        """Say how a run stands.

        Args:
            run_id: The run.
            status: RUNNING, or how it ended.

        Raises:
            TrackingError: MLflow is not there.
        """
        with translated(self.tracking_uri):
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            elif self.client.get_run(run_id).info.status != status:  # else it would end later
                self.client.set_terminated(run_id, status)


def _artifact_location(tracking_uri: str) -> str | None:
    """Put the artifacts beside an SQLite database; a server knows its own place."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    database = Path(tracking_uri.removeprefix("sqlite:///")).resolve()
    return artifact_location(database.parent / "mlartifacts")
