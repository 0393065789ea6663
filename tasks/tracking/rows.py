"""One row a grid point: what the tables on the terminal and in the report show."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.metrics import Metric
from tasks.runtime.prediction import Prediction
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.damage import label_of_run
from tasks.tracking.history import RunHistory, RunState, Series, read_history
from tasks.tracking.rates import RateFit, fit_rate
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.training_rows import TrainingMeasures, training_measures


@dataclass(frozen=True)
class Row:
    """One grid point. A value that was not measured is None.

    Attributes:
        label: What varies, for people.
        coordinates: Grid axis -> label of its value.
        directory: The run directory.
        state: How the run stands.
        message: Why it failed, was interrupted or cannot be read, for the user; else empty.
        rounds: Round, or train step, of the last measurement.
        loss: Training loss there.
        accuracy: Test accuracy there, in [0, 1].
        grad_norm: Norm of the full gradient there.
        rate: Exponent b of the squared gradient norm ~ t^b, see ``rates.fit_rate``.
        rate_low: Lower end of its 95 % confidence interval.
        rate_high: Upper end.
        mean_delay: Over all returns of the run, in rounds.
        max_delay: Largest of them.
        num_refused: Returns refused as not finite.
        num_dropped: Returns dropped as too old.
        virtual_s: Virtual time of the last measurement.
        wall_s: Wall time of all attempts.
        warnings: What the user should know.
        training: What only a training on ranks measures.
        prediction: What the cost model says, where it was asked.
        predicted_only: Why it has no job; empty if it has.
        reused_from: Name of the study whose result it has; empty if it has run itself.
    """

    label: str
    coordinates: Mapping[str, str]
    directory: str
    state: RunState
    message: str
    rounds: int
    loss: float | None
    accuracy: float | None
    grad_norm: float | None
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    mean_delay: float | None
    max_delay: float | None
    num_refused: int
    num_dropped: int
    virtual_s: float | None
    wall_s: float | None
    warnings: tuple[str, ...]
    training: TrainingMeasures | None = None
    prediction: Prediction | None = None
    predicted_only: str = ""
    reused_from: str = ""


def collect_rows(study_dir: Path) -> list[Row]:
    """Read the rows of a study, whose runs may still be running.

    Args:
        study_dir: The study's directory.

    Returns:
        One row for each point that has a job, in the order of the grid.

    Raises:
        OSError: A file cannot be read.
    """
    return [row for _, row in read_points(StudyDirectory(study_dir))]


def read_points(directory: StudyDirectory) -> list[tuple[RunHistory | None, Row]]:
    """Read the points of a study, whose runs may still be running.

    Args:
        directory: The study's directory.

    Returns:
        Each point that has a job, in the order of the grid, and its row; without a history where a
        file cannot be read, which the row says.

    Raises:
        OSError: A file cannot be read for another reason.
    """
    points: list[tuple[RunHistory | None, Row]] = []
    for run in directory.points():
        try:
            history = read_history(run)
        except DamagedFileError as fault:
            points.append((None, _row_of_damaged(run, fault)))
        else:
            points.append((history, row_of(history)))
    return points


def _row_of_damaged(run: RunDirectory, fault: DamagedFileError) -> Row:
    return Row(
        label=label_of_run(run),
        coordinates={},
        directory=str(run.path),
        state="damaged",
        message=str(fault),
        rounds=0,
        loss=None,
        accuracy=None,
        grad_norm=None,
        rate=None,
        rate_low=None,
        rate_high=None,
        mean_delay=None,
        max_delay=None,
        num_refused=0,
        num_dropped=0,
        virtual_s=None,
        wall_s=None,
        warnings=(),
    )


def row_of(history: RunHistory) -> Row:
    """Summarise one run.

    Args:
        history: The run.

    Returns:
        Its row.
    """
    result = history.result
    rate = fitted_rate(history)
    delays = history.series(Metric.DELAY_MAX)
    wall_s = history.series(Metric.WALL_S).last
    ended = result is not None and history.state == result.status
    return Row(
        label=history.job.point,
        coordinates=dict(history.job.coordinates),
        directory=str(history.directory.path),
        state=history.state,
        message=result.message if result and ended else _why_no_job(history),
        rounds=history.rounds,
        loss=history.series(Metric.TRAIN_LOSS).last,
        accuracy=history.series(Metric.TEST_ACCURACY).last,
        grad_norm=history.series(Metric.TRAIN_GRAD_NORM).last,
        rate=rate.exponent if rate else None,
        rate_low=rate.low if rate else None,
        rate_high=rate.high if rate else None,
        mean_delay=_mean_over_rounds(history.series(Metric.DELAY_MEAN)),
        max_delay=float(delays.values.max()) if len(delays) else None,
        num_refused=int(history.series(Metric.RETURNS_REFUSED).last or 0),
        num_dropped=int(history.series(Metric.RETURNS_DROPPED).last or 0),
        virtual_s=history.series(Metric.VIRTUAL_S).last,
        wall_s=result.wall_s if result and ended else wall_s,
        warnings=result.warnings if result else (),
        training=training_measures(history),
        prediction=history.prediction,
        predicted_only=_why_no_job(history),
        reused_from=history.reused.study if history.reused else "",
    )


def _why_no_job(history: RunHistory) -> str:
    reason = history.predicted_only.reason if history.predicted_only else ""
    return reason if history.state == "predicted" else ""


def fitted_rate(history: RunHistory) -> RateFit | None:
    """Fit the exponent of the squared gradient norm of one run."""
    series = history.series(Metric.TRAIN_GRAD_SQ_NORM)
    return fit_rate(series.rounds, series.values)


def _mean_over_rounds(series: Series) -> float | None:
    """Average a metric whose values stand for the rounds since the line before."""
    widths = np.diff(series.rounds, prepend=0.0)
    if not widths.sum():
        return series.last
    return float(series.values @ widths / widths.sum())
