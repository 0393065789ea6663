"""The final model of a run, sent to MLflow."""

from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.errors import TrackingError
from tasks.tracking.model_store import log_model
from tasks.tracking.refusals import translated
from tasks.tracking.served_models import can_be_served, served_model
from tasks.tracking.store import Store
from tasks.tracking.tables import scaled

_PLACE_TAG = "watershed.model_file"


def send_model(store: Store, directory: RunDirectory, job: JobFile, run_id: str) -> str:
    """Log the final model so that ``mlflow models`` loads it; a model that cannot, as it is.

    The model of a training that is larger than what MLflow's store is made for stays where it is,
    and the run says where. So with a model that the store refuses.

    Args:
        store: Where.
        directory: The run directory; without a model nothing is sent.
        job: What it has run.
        run_id: Its MLflow run.

    Returns:
        Why MLflow has the model as a mere file, and what to do; empty if all is well.

    Raises:
        TrackingError: MLflow is not there, or refuses the file, too; to be called again, at once
            or when somebody has acted.
        OSError: The model went away.
    """
    if not directory.model.is_file():
        return ""
    if not can_be_served(directory, job.experiment):
        if job.experiment.kind == "training":
            store.log_tags(run_id, {_PLACE_TAG: _place(directory)})
        else:
            _send_file(store, directory, run_id)
        return ""
    try:
        _log_model(store, directory, job, run_id)
    except TrackingError as error:
        if not error.permanent:
            raise
        # A server older than logged models; the file is worth keeping all the same.
        _send_file(store, directory, run_id)
        return (
            f"{error}; the model of {job.point} is there as the file {directory.model.name}, which "
            "mlflow models does not load: logged models need a server of MLflow 3"
        )
    return ""


def _log_model(store: Store, directory: RunDirectory, job: JobFile, run_id: str) -> None:
    tags = {"watershed.study": job.study, "watershed.point": job.point}
    tags |= {"watershed.config_hash": job.config_hash}
    experiment_id = store.experiment_of(run_id)
    with translated(store.tracking_uri), served_model(directory, job) as model:
        log_model(
            store,
            experiment_id=experiment_id,
            run_id=run_id,
            directory=model,
            content=directory.model,
            tags=tags,
        )


def _send_file(store: Store, directory: RunDirectory, run_id: str) -> None:
    """Send the mere file of a model; if it is refused, the run says where it is.

    Raises:
        TrackingError: It is refused, or MLflow is not there.
    """
    try:
        store.log_files(run_id, [directory.model])
    except TrackingError as error:
        if error.permanent:
            store.log_tags(run_id, {_PLACE_TAG: _place(directory)})
        raise


def _place(directory: RunDirectory) -> str:
    """Say where the model lies, and how large it is."""
    return f"{directory.model.resolve()} ({scaled(directory.model.stat().st_size, 'B')})"
