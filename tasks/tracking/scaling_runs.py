"""What a scaling study adds in MLflow: predictions, efficiencies, costs; points without a job."""

import re
from collections.abc import Mapping, Sequence

from configs.scaling_points import Scaling, size_of
from configs.study import Study
from tasks.runtime.prediction import Prediction
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.cursor import read_cursor, write_cursor
from tasks.tracking.history import RunHistory, read_prediction
from tasks.tracking.rows import Row, read_points
from tasks.tracking.scaling_report import mean_prediction_error
from tasks.tracking.scaling_rows import (
    cost_of,
    efficiencies,
    measured_tflops,
    predicted_cost,
    predicted_tflops,
    scaling_points,
    strategy_of,
)
from tasks.tracking.speedup import configuration_of, fits_of, measure_speedups, scaling_axes
from tasks.tracking.store import Store
from tasks.tracking.stored import MetricPoint
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.uploads import Uploads, configuration_uploads, file_uploads


def prediction_metrics(prediction: Prediction) -> dict[str, float]:
    """Return a prediction by MLflow's names: ``predicted/tflops``, ``predicted/bytes_node``, ...

    Args:
        prediction: The prediction; what it does not know is left out.
    """
    values: dict[str, float | None] = {
        "step_s": prediction.step_s,
        "tokens_per_s": prediction.tokens_per_s,
        "tflops": prediction.tflops,
        "hardware_tflops": prediction.hardware_tflops,
        "mfu": prediction.mfu,
        "peak_bytes": prediction.peak_bytes,
        "energy_j": prediction.energy_j,
        **{f"bytes_{level}": count for level, count in prediction.bytes_per_step.items()},
        **{f"split/{_word(cause)}_s": time_s for cause, time_s in prediction.split_s.items()},
    }
    return {f"predicted/{name}": float(v) for name, v in values.items() if v is not None}


def _word(cause: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", cause)


def send_prediction(store: Store, directory: RunDirectory, run_id: str) -> None:
    """Send what the cost model says of a point, if it was asked.

    Args:
        store: Where.
        directory: The point's run directory.
        run_id: Its MLflow run.

    Raises:
        TrackingError: MLflow is not there, or refuses.
        DamagedFileError: ``prediction.json`` is cut off, or of another version.
    """
    prediction = read_prediction(directory)
    if prediction is not None:
        _send(store, run_id, prediction_metrics(prediction), _written_ms(directory))


def end_predicted_run(store: Store, directory: RunDirectory, run_id: str, uploads: Uploads) -> None:
    """Report a point that has no job: its files, and that it is over.

    Args:
        store: Where.
        directory: The point's run directory.
        run_id: Its MLflow run, which has the prediction already.
        uploads: Sends the files.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
    """
    predicted_only = directory.read_predicted_only()
    reason = predicted_only.reason if predicted_only else ""
    store.log_tags(run_id, {"mlflow.note.content": f"Predicted only: {reason}"})
    files = file_uploads(store, run_id, [directory.prediction])
    uploads.send(directory.path, configuration_uploads(store, directory, run_id) | files)
    store.set_status(run_id, "FINISHED")
    cursor = read_cursor(directory, store.tracking_uri)
    end = {"is_predicted": True, "untaken": uploads.untaken(directory.path)}
    write_cursor(directory, cursor.model_copy(update=end))


def send_scaling(store: Store, directory: StudyDirectory, study_run_id: str) -> None:
    """Send what is known only when all points are over: efficiencies and costs.

    Args:
        store: Where.
        directory: The study's directory; without a ``scaling`` section nothing is sent.
        study_run_id: The study's MLflow run.

    Raises:
        TrackingError: MLflow is not there, or refuses; to be called again.
    """
    study = directory.read_study()
    if study.scaling is None:
        return
    points = read_points(directory)
    runs = [(history, row) for history, row in points if history is not None]
    if study.experiment.kind == "training":
        _send_trainings(store, study, study.scaling, runs, study_run_id)
    else:
        _send_speedups(store, study, [history for history, _ in runs], study_run_id)


def _send_speedups(
    store: Store, study: Study, histories: Sequence[RunHistory], study_run_id: str
) -> None:
    """Send the speed-up of each configuration to its runs, the fitted exponents to the study's."""
    groups = measure_speedups(study, histories)
    newest_ms = max((history.last_timestamp_ms for history in histories), default=0)
    for history in histories:
        configuration = configuration_of(scaling_axes(study), history)
        run_id = read_cursor(history.directory, store.tracking_uri).run_id
        if configuration is None or not run_id or history.state != "finished":
            continue
        rest, size = configuration
        for one in groups.get(rest, ()):
            if (one.collect, one.local_steps) == size:
                values = {
                    "scaling/size": size[0] * size[1],
                    "scaling/speedup": one.measured,
                    "scaling/ideal_speedup": one.ideal,
                }
                _send(store, run_id, values, history.last_timestamp_ms)
    for rest, members in groups.items():
        where = f"/{_word(rest)}" if rest else ""
        for name, fit in fits_of(members).items():
            exponent = {f"scaling/exponent_{_word(name)}{where}": fit.exponent}
            _send(store, study_run_id, exponent, newest_ms)


def _send_trainings(
    store: Store,
    study: Study,
    scaling: Scaling,
    runs: Sequence[tuple[RunHistory, Row]],
    study_run_id: str,
) -> None:
    points = scaling_points(study, scaling, runs)
    measured = efficiencies(points, measured_tflops)
    foreseen = efficiencies(points, predicted_tflops)
    is_local = study.launcher.kind == "local"
    newest_ms = 0
    for history, row in runs:
        is_finished = row.state == "finished"
        size = size_of(history.job.experiment)
        key = (strategy_of(scaling, history), size)
        cost = cost_of(history, row, is_local=is_local) if is_finished else predicted_cost(history)
        values = {
            "scaling/devices": size,
            "scaling/efficiency": measured.get(key) if is_finished else None,
            "predicted/efficiency": foreseen.get(key),
            "scaling/node_hours" if is_finished else "predicted/node_hours": cost.node_hours,
            "scaling/energy_j" if cost.is_energy_measured else "predicted/run_energy_j": (
                cost.energy_j
            ),
        }
        timestamp_ms = history.last_timestamp_ms or _written_ms(history.directory)
        newest_ms = max(newest_ms, timestamp_ms)
        if run_id := read_cursor(history.directory, store.tracking_uri).run_id:
            _send(store, run_id, values, timestamp_ms)
    error = {"scaling/mean_prediction_error": mean_prediction_error(points)}
    _send(store, study_run_id, error, newest_ms)


def _send(store: Store, run_id: str, values: Mapping[str, float | None], timestamp_ms: int) -> None:
    points = [
        # The time of a file, so that sending twice gives one point; step 0 draws bars.
        MetricPoint(name, value, timestamp_ms, 0)
        for name, value in values.items()
        if value is not None
    ]
    store.log_points(run_id, points)


def _written_ms(directory: RunDirectory) -> int:
    return directory.job.stat().st_mtime_ns // 1_000_000
