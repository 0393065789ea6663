"""A study in MLflow: experiment = study, parent run = its directory, child runs = its points.

A directory's cursor names its run by a key that is written down before the run is created, and is
a tag of the run. So a run is found again after a crash, also when the directory has moved, and two
directories of the same name on different machines never share one.
"""

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

from configs.study import Study
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.records import AttemptCost
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.axes import SEED_AXES
from tasks.tracking.costs import TotalCost, read_costs, total
from tasks.tracking.cursor import read_cursor, write_cursor
from tasks.tracking.descriptions import point_note, report_note, study_note
from tasks.tracking.errors import TrackingError
from tasks.tracking.history import RunState, read_history
from tasks.tracking.machine import machine_of
from tasks.tracking.model_runs import send_model
from tasks.tracking.old_views import retire_views
from tasks.tracking.parameters import flatten
from tasks.tracking.rows import Row, row_of
from tasks.tracking.scaling_runs import send_scaling
from tasks.tracking.store import Store
from tasks.tracking.stored import MetricPoint, RunStatus
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tags import subject_tags
from tasks.tracking.uploads import Uploads, configuration_uploads, file_uploads
from tasks.tracking.views import view_tags

STATUS: dict[RunState, RunStatus] = {
    "waiting": "RUNNING",
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "predicted": "FINISHED",
    "damaged": "FAILED",
}


def open_study_run(
    store: Store,
    directory: StudyDirectory,
    study: Study,
    *,
    tags: dict[str, str],
    varying: Sequence[str] = (),
) -> tuple[str, str]:
    """Find or create the experiment and the parent run of a study.

    Args:
        store: Where.
        directory: The study's directory.
        study: The study.
        tags: Tags that all of the study's runs have, see ``common_tags``.
        varying: Parameters that differ from point to point, for the parallel coordinates.

    Returns:
        The experiment's id and the run's.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    experiment_id = store.experiment(study.name, study.description)
    axes = sorted(study.grid, key=SEED_AXES.__contains__)  # compared are the other ones
    labels = {f"grid.{name}": ", ".join(map(str, axis)) for name, axis in study.grid.items()}
    run_id = _open_run(
        store,
        RunDirectory(directory.path),
        experiment_id,
        name=directory.path.name,
        tags=tags
        | {
            "mlflow.note.content": study_note(study),
            "watershed.study": study.name,
            "watershed.study_directory": str(directory.path.resolve()),
        },
        parameters=flatten(dict(labels)),
    )
    views = view_tags(run_id, axes, study.experiment.kind, varying)
    store.tag_experiment(experiment_id, views)
    store.set_status(run_id, "RUNNING")
    with contextlib.suppress(TrackingError):  # they wait for the next study
        retire_views(store, experiment_id, run_id)
    return experiment_id, run_id


def open_point_run(
    store: Store,
    directory: RunDirectory,
    *,
    experiment_id: str,
    parent_run_id: str,
    tags: dict[str, str],
    parameters: Mapping[str, str],
) -> str:
    """Find or create the child run of a grid point, with its parameters.

    Args:
        store: Where.
        directory: The run directory.
        experiment_id: The study's experiment.
        parent_run_id: The study's run.
        tags: Tags that all of the study's runs have.
        parameters: What varies, see ``varying_parameters``.

    Returns:
        The run's id.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    job = directory.read_job()
    return _open_run(
        store,
        directory,
        experiment_id,
        name=job.point,
        tags=tags
        | {f"axis.{name}": label for name, label in job.coordinates.items()}
        | {
            "mlflow.parentRunId": parent_run_id,
            "watershed.study": job.study,
            "watershed.config_hash": job.config_hash,
            "watershed.run_directory": str(directory.path.resolve()),
        }
        | subject_tags(job.experiment)
        | _standing(directory),
        parameters=parameters,
    )


def _standing(directory: RunDirectory) -> dict[str, str]:
    """Return tags that say why a point has no job, or who has computed it."""
    tags = {}
    if reused := directory.read_reused():
        tags["watershed.reused_from"] = reused.source
    if predicted_only := directory.read_predicted_only():
        tags["watershed.predicted_only"] = predicted_only.reason
    return tags


def _open_run(
    store: Store,
    directory: RunDirectory,
    experiment_id: str,
    *,
    name: str,
    tags: dict[str, str],
    parameters: Mapping[str, str],
) -> str:
    cursor = read_cursor(directory, store.tracking_uri)
    if cursor.run_id:
        store.log_tags(cursor.run_id, tags)  # a resumed run has another flow run
        return cursor.run_id
    run_id = store.find_or_create_run(experiment_id, cursor.key, name=name, tags=tags)
    store.log_parameters(run_id, parameters)
    # Written last: a crash before this line comes here again and completes what is missing.
    write_cursor(directory, cursor.model_copy(update={"run_id": run_id}))
    return run_id


def begin_again(store: Store, directory: RunDirectory, run_id: str) -> None:
    """Say that a run which had ended goes on.

    Args:
        store: Where.
        directory: The run directory.
        run_id: Its MLflow run.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
    """
    store.set_status(run_id, "RUNNING")
    cursor = read_cursor(directory, store.tracking_uri)
    write_cursor(directory, cursor.model_copy(update={"num_ended": 0, "untaken": ""}))


def end_point_run(
    store: Store, directory: RunDirectory, run_id: str, status: RunStatus, uploads: Uploads
) -> None:
    """Report how a run ended: result metrics, files, status.

    Args:
        store: Where.
        directory: The run directory, whose journal has been sent.
        run_id: Its MLflow run.
        status: How it ended.
        uploads: Sends the files; those that are not taken do not keep the run from its end.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
    """
    history = read_history(directory)
    row = row_of(history)
    store.log_points(
        run_id,
        [
            # The journal's own time, so that reporting twice gives one point.
            # Step 0 makes MLflow draw bars, one a run, and no curve of one point.
            MetricPoint(f"result/{name}", value, history.last_timestamp_ms, 0)
            for name, value in result_metrics(row).items()
            if value is not None
        ],
    )
    machine = {"watershed.machine": where} if (where := machine_of(directory)) else {}
    store.log_tags(run_id, {"mlflow.note.content": point_note(row), **machine})
    files = configuration_uploads(store, directory, run_id)
    files |= file_uploads(store, run_id, [directory.result])
    files[directory.model.name] = partial(send_model, store, directory, history.job, run_id)
    uploads.send(directory.path, files)
    store.set_status(run_id, status)
    cursor = read_cursor(directory, store.tracking_uri)
    end = {"num_ended": len(directory.attempts()), "untaken": uploads.untaken(directory.path)}
    write_cursor(directory, cursor.model_copy(update=end))


def end_study_run(
    store: Store,
    directory: StudyDirectory,
    run_id: str,
    statuses: set[RunStatus],
    uploads: Uploads,
) -> None:
    """Upload a study's report and figures, and say how it ended.

    Args:
        store: Where.
        directory: The study's directory.
        run_id: Its MLflow run.
        statuses: How its points ended.
        uploads: Sends the files.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
    """
    figures = [directory.curves, directory.speedup, directory.time_split]
    figures += [directory.scaling, directory.scaling_split, directory.scaling_page]
    files = [directory.study, directory.report, *figures, directory.scaling_data]
    uploads.send(directory.path, file_uploads(store, run_id, files))
    if directory.report.is_file():
        report = directory.report.read_text(encoding="utf-8")
        note = report_note(directory.read_study(), report, store.experiment_of(run_id), run_id)
        store.log_tags(run_id, {"mlflow.note.content": note})
    _send_costs(store, directory, run_id)
    send_scaling(store, directory, run_id)
    worst: RunStatus = "FINISHED"
    for status in ("RUNNING", "KILLED", "FAILED"):
        worst = status if status in statuses else worst
    store.set_status(run_id, "KILLED" if worst == "RUNNING" else worst)


def _send_costs(store: Store, directory: StudyDirectory, study_run_id: str) -> None:
    """Send what the attempts cost: each point's to its run, the sum to the study's.

    At the very end, since Slurm's accounting lags behind the jobs.
    """
    all_attempts: list[AttemptCost] = []
    newest_ms = 0
    for point in directory.points():
        try:
            attempts, timestamp_ms = _attempts_of(point)
        except DamagedFileError:  # the report says so
            continue
        cost, run_id = total(attempts), read_cursor(point, store.tracking_uri).run_id
        if cost is None:
            continue
        if not point.reused.exists():  # paid for by an earlier study
            all_attempts += attempts
        newest_ms = max(newest_ms, timestamp_ms)
        if run_id:
            store.log_points(run_id, _cost_points(cost, timestamp_ms))
    if cost := total(all_attempts):
        store.log_points(study_run_id, _cost_points(cost, newest_ms))


def _attempts_of(point: RunDirectory) -> tuple[tuple[AttemptCost, ...], int]:
    """Return what the attempts of a point cost, and when its journal ends, Unix milliseconds."""
    attempts = read_costs(point)
    return attempts, read_history(point).last_timestamp_ms if attempts else 0


def _cost_points(cost: TotalCost, timestamp_ms: int) -> list[MetricPoint]:
    return [MetricPoint(name, value, timestamp_ms, 0) for name, value in cost.metrics().items()]


def result_metrics(row: Row) -> dict[str, float | None]:
    """Return what a run is compared by; in MLflow each name stands behind ``result/``.

    Args:
        row: The run.

    Returns:
        Name -> value; None where it was not measured.
    """
    if row.training:
        of_all = {"train_loss": row.loss, "grad_norm": row.grad_norm, "wall_s": row.wall_s}
        return of_all | row.training.metrics()
    return {
        "train_loss": row.loss,
        "test_accuracy": row.accuracy,
        "grad_norm": row.grad_norm,
        "rate": row.rate,
        "rate_low": row.rate_low,
        "rate_high": row.rate_high,
        "mean_delay": row.mean_delay,
        "max_delay": row.max_delay,
        "num_refused": row.num_refused,
        "virtual_s": row.virtual_s,
        "wall_s": row.wall_s,
    }
