"""What a run has left behind, read whole: its journal by metric, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.journal import read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.prediction import Prediction
from tasks.runtime.reading import load_record
from tasks.runtime.records import Exit, JobFile, PredictedOnly, Result, Reused
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import EXIT
from tasks.tracking.costs import read_costs

RunState = Literal[
    "waiting", "running", "finished", "failed", "interrupted", "predicted", "damaged"
]
"""How a run stands; a predicted one has no job, and is over from the start. Of a damaged one a file
cannot be read: whether it has run is not known, so it is not run again."""
OVER: frozenset[RunState] = frozenset({"finished", "failed", "interrupted", "predicted", "damaged"})
"""States after which nothing more comes by itself."""
GOOD: frozenset[RunState] = frozenset({"finished", "predicted"})
"""States that leave nothing to do."""


@dataclass(frozen=True)
class Series:
    """One metric of one run.

    Attributes:
        rounds: Where it was measured, increasing, shape (n,).
        values: What was measured, shape (n,).
    """

    rounds: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rounds)

    @property
    def last(self) -> float | None:
        """The last value, if there is one."""
        return float(self.values[-1]) if len(self) else None


@dataclass(frozen=True)
class RunHistory:
    """One run.

    Attributes:
        directory: Where it is.
        job: What it was to do.
        state: How it stands. An attempt without an end counts as running: a killed one looks the
            same until it is resumed or its job's state is known.
        result: How its last ended attempt ended.
        metrics: Metric -> series.
        last_timestamp_ms: Of the journal's last line, Unix milliseconds; 0 without lines.
        rounds: Round of the last line.
        prediction: What the cost model says, where it was asked.
        predicted_only: Why it has no job; None if it has.
        reused: Which earlier run has computed it; None if it has itself.
    """

    directory: RunDirectory
    job: JobFile
    state: RunState
    result: Result | None
    metrics: Mapping[str, Series]
    last_timestamp_ms: int
    rounds: int
    prediction: Prediction | None = None
    predicted_only: PredictedOnly | None = None
    reused: Reused | None = None

    def series(self, metric: str) -> Series:
        """Return one metric's series, empty if the run does not have it."""
        return self.metrics.get(metric, Series(np.empty(0), np.empty(0)))

    def against(self, clock: Metric, metric: str) -> Series:
        """Return a metric's series over another, such as virtual time, instead of rounds."""
        ticks, series = self.series(clock), self.series(metric)
        _, at_ticks, at_series = np.intersect1d(ticks.rounds, series.rounds, return_indices=True)
        return Series(ticks.values[at_ticks], series.values[at_series])


def read_history(directory: RunDirectory) -> RunHistory:
    """Read a run's files.

    Args:
        directory: The run, with ``job.json``.

    Returns:
        What is there now.

    Raises:
        OSError: ``job.json`` or another file cannot be read.
        DamagedFileError: One of them is cut off, or of another version.
    """
    collected: dict[str, tuple[list[float], list[float]]] = {}
    timestamp_ms = rounds = 0
    for line, _ in read_journal(directory.journal):
        timestamp_ms, rounds = line.timestamp_ms, line.step
        for name, value in line.metrics.items():
            at, values = collected.setdefault(name, ([], []))
            at.append(line.step)
            values.append(value)
    result = directory.read_result()
    read_costs(directory)  # whoever has the history may rely on them
    return RunHistory(
        directory=directory,
        job=directory.read_job(),
        state=read_state(directory, result),
        result=result,
        metrics={
            name: Series(np.array(at, dtype=float), np.array(values))
            for name, (at, values) in collected.items()
        },
        last_timestamp_ms=timestamp_ms,
        rounds=rounds,
        prediction=read_prediction(directory),
        predicted_only=directory.read_predicted_only(),
        reused=directory.read_reused(),
    )


def read_prediction(directory: RunDirectory) -> Prediction | None:
    """Read what the cost model says of a run; None where it was not asked.

    Args:
        directory: The run.

    Raises:
        DamagedFileError: It is cut off, or of another version.
    """
    try:
        return load_record(Prediction, directory.prediction)
    except FileNotFoundError:
        return None


def read_state(directory: RunDirectory, result: Result | None) -> RunState:
    """Tell how a run stands from its attempts.

    Args:
        directory: The run.
        result: Its result, if there is one.

    Returns:
        How its last attempt ended, or that it has not; waiting also if Slurm has queued it again.

    Raises:
        DamagedFileError: What tells the attempt's end is cut off, or of another version.
    """
    attempts = directory.attempts()
    if not attempts:
        return "predicted" if directory.predicted_only.exists() else "waiting"
    try:
        ended = load_record(Exit, attempts[-1] / EXIT)
    except FileNotFoundError:
        return "running"
    if ended.requeued:
        return "waiting"
    return "running" if result is None else result.status
