"""How far a study is, read from its run directories while its jobs write them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.runtime.journal import read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.tracking.history import RunState, read_state
from tasks.tracking.study_directory import StudyDirectory


@dataclass(frozen=True)
class PointProgress:
    """One grid point.

    Attributes:
        label: What varies.
        state: How its run stands.
        round: Rounds done, as far as the journal says.
        num_rounds: Rounds in all.
        loss: Training loss at that round, once it is known.
        accuracy: Test accuracy there, in [0, 1], if the model has one.
        message: Why it failed or stopped; else empty.
    """

    label: str
    state: RunState
    round: int
    num_rounds: int
    loss: float | None = None
    accuracy: float | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in {"finished", "failed", "interrupted"}


@dataclass(frozen=True)
class Snapshot:
    """A study as it stands.

    Attributes:
        phase: What happens now, for people.
        points: The points, in the order of the grid.
        elapsed_s: Seconds since it was started or resumed.
        left_s: Seconds that the rest will take; None while unknown.
    """

    phase: str
    points: Sequence[PointProgress]
    elapsed_s: float
    left_s: float | None


_LEAST_SHARE = 0.02
"""Below this share of the work no remaining time is guessed."""


def remaining_s(done_before: float, done: float, elapsed_s: float) -> float | None:
    """Guess how long the rest takes, at the pace so far.

    Args:
        done_before: Share of the work that was done when the clock started, in [0, 1].
        done: Share that is done now.
        elapsed_s: Seconds between the two.

    Returns:
        Seconds; None while too little has happened.
    """
    gained = done - done_before
    return None if gained < _LEAST_SHARE else (1 - done) * elapsed_s / gained


def share_done(points: Sequence[PointProgress]) -> float:
    """Return the share of all rounds that is done, in [0, 1]; an ended run counts as done."""
    done = sum(point.num_rounds if point.is_over else point.round for point in points)
    return done / max(1, sum(point.num_rounds for point in points))


class StudyProgress:
    """Reads a study's run directories again and again, of the journals only what is new.

    A run that failed or was interrupted before this object was made waits for its next attempt.

    Args:
        directory: The study's directory.

    Raises:
        OSError: A ``job.json`` cannot be read.
        ValidationError: A ``job.json`` is not what it should be.
    """

    def __init__(self, directory: StudyDirectory) -> None:
        self._readers = [_PointReader(run) for run in directory.points()]

    def read(self) -> list[PointProgress]:
        """Return the points as they stand, in the order of the grid.

        Raises:
            OSError: A file cannot be read.
            ValidationError: A file is not what it should be.
        """
        return [reader.read() for reader in self._readers]


class _PointReader:
    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        job = directory.read_job()
        self._progress = PointProgress(job.point, "waiting", 0, job.experiment.rounds)
        self._offset = 0
        # A job that a killed flow has left will be adopted, and its attempt goes on.
        self._num_attempts_before = len(directory.attempts()) - is_alive(directory)

    def read(self) -> PointProgress:
        if self._progress.state in {"finished", "failed"}:  # Slurm may start a stopped one again
            return self._progress
        result = self._directory.read_result()
        state = read_state(self._directory, result)
        if state == "waiting" and self._directory.stdout.exists():
            state = "running"  # it is importing what it needs
        if state != "finished" and 0 < len(self._directory.attempts()) <= self._num_attempts_before:
            state = "waiting"  # for its next attempt
        last, loss, accuracy = self._progress.round, self._progress.loss, self._progress.accuracy
        for line, offset in read_journal(self._directory.journal, self._offset):
            self._offset, last = offset, line.step
            loss = line.metrics.get(Metric.TRAIN_LOSS, loss)
            accuracy = line.metrics.get(Metric.TEST_ACCURACY, accuracy)
        has_ended = result is not None and state == result.status
        self._progress = PointProgress(
            label=self._progress.label,
            state=state,
            round=last,
            num_rounds=self._progress.num_rounds,
            loss=loss,
            accuracy=accuracy,
            message=result.message if result and has_ended else "",
        )
        return self._progress
