"""Models in MLflow: logged with a run, found again, registered under a name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tracking.errors import TrackingError
from tasks.tracking.refusals import translated
from tasks.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

MODEL_NAME = "model"
"""Name of a run's model: ``runs:/<run id>/model``."""
_CONTENT_TAG = "watershed.model_sha256"


def log_model(
    store: Store,
    *,
    experiment_id: str,
    run_id: str,
    directory: Path,
    content: Path,
    tags: Mapping[str, str],
) -> str:
    """Log the model of a run; the same model is sent once, however often this is called.

    Args:
        store: Where.
        experiment_id: The run's experiment.
        run_id: The run.
        directory: The model's files, with ``MLmodel``.
        content: The file by which it is told whether the model is the same.
        tags: Of the model.

    Returns:
        MLflow's id of the model.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256(content.read_bytes()).hexdigest()
    with translated(store.tracking_uri):
        from mlflow.entities import LoggedModelOutput  # noqa: PLC0415  3 s

        model = _logged_model(store, experiment_id, run_id)
        if model is not None and model.tags.get(_CONTENT_TAG) == digest:
            return str(model.model_id)
        if model is None:
            model = store.client.create_logged_model(
                experiment_id, name=MODEL_NAME, source_run_id=run_id, tags=dict(tags)
            )
        outputs = store.client.get_run(run_id).outputs  # sent twice, it would be refused
        if model.model_id not in {
            one.model_id for one in (outputs and outputs.model_outputs) or ()
        }:
            store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        try:
            store.client.log_model_artifacts(model.model_id, str(directory))
        except Exception:
            # Else MLflow would show it as on its way, for ever.
            store.client.finalize_logged_model(model.model_id, "FAILED")
            raise
        store.client.finalize_logged_model(model.model_id, "READY")
        # Said last: a crash before this line comes here again and sends the files again.
        store.client.set_logged_model_tags(model.model_id, {_CONTENT_TAG: digest, **tags})
        return str(model.model_id)


def register_model(
    store: Store, run_id: str, name: str, *, tags: Mapping[str, str], alias: str
) -> str:
    """Make the logged model of a run a version of a registered model.

    Args:
        store: Where.
        run_id: The run.
        name: Of the registered model, which is made if it is not there.
        tags: Of the version.
        alias: That points to this version from now on; empty for none.

    Returns:
        The number of the version; that of an earlier call for the same model, if there is one.

    Raises:
        TrackingError: The run has no model, or MLflow is not there, or refuses.
    """
    with translated(store.tracking_uri):
        experiment_id = str(store.client.get_run(run_id).info.experiment_id)
        model = _logged_model(store, experiment_id, run_id)
        if model is None:
            raise TrackingError(f"run {run_id} has no model in MLflow", permanent=True)
        digest = model.tags.get(_CONTENT_TAG, "")
        if not store.client.search_registered_models(f"name = {_quoted(name)}"):
            store.client.create_registered_model(name)
        versions = store.client.search_model_versions(f"name = {_quoted(name)}")
        same = [
            one for one in versions if one.run_id == run_id and one.tags.get(_CONTENT_TAG) == digest
        ]
        made = same[0] if same else store.client.create_model_version(
            name,
            source=model.artifact_location,
            run_id=run_id,
            tags={_CONTENT_TAG: digest, **tags},
            model_id=model.model_id,
        )  # fmt: skip
        if alias:
            store.client.set_registered_model_alias(name, alias, str(made.version))
        return str(made.version)


def _logged_model(store: Store, experiment_id: str, run_id: str) -> "LoggedModel | None":
    found = store.client.search_logged_models(
        [experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND name = '{MODEL_NAME}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": True}],
    )
    return found[0] if found else None


def _quoted(name: str) -> str:
    """Quote a text of a filter, in which MLflow knows no escapes."""
    return f'"{name}"' if "'" in name else f"'{name}'"
