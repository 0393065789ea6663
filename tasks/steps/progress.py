"""How far a study is, read from its run directories while its jobs write them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.journal import read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.tracking.history import OVER, RunState, read_state
from tasks.tracking.study_directory import StudyDirectory


@dataclass(frozen=True)
class PointProgress:
    """One grid point.

    Attributes:
        label: What varies.
        state: How its run stands.
        step: Rounds or train steps done, as far as the journal says.
        num_steps: Those in all.
        loss: Training loss there, once it is known.
        accuracy: Test accuracy there, in [0, 1], if the model has one.
        tokens_per_s: Tokens a second there, of a language model.
        tflops: Model FLOPs of one device there, 10^12 a second.
        unit: What the steps are: ``round`` or ``train step``.
        message: Why it failed, stopped or cannot be read; else empty.
    """

    label: str
    state: RunState
    step: int
    num_steps: int
    loss: float | None = None
    accuracy: float | None = None
    tokens_per_s: float | None = None
    tflops: float | None = None
    unit: str = "round"
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in OVER

    @property
    def measures(self) -> dict[str, str]:
        """What was measured, each in words: ``loss 2.1``, ``930 tok/s``."""
        measured = {
            "loss": (self.loss, "loss {:.4g}"),
            "accuracy": (self.accuracy and 100 * self.accuracy, "accuracy {:.1f} %"),
            "tokens_per_s": (self.tokens_per_s, "{:,.0f} tok/s"),
            "tflops": (self.tflops, "{:.3g} TFLOPS"),
        }
        return {name: "" if v is None else text.format(v) for name, (v, text) in measured.items()}

    @property
    def told(self) -> str:
        """How far it is: ``train step 40 of 60: loss 2.1, 930 tok/s, 0.02 TFLOPS``."""
        measured = ", ".join(filter(None, self.measures.values()))
        reached = f"{self.unit} {self.step} of {self.num_steps}"
        return f"{reached}: {measured}" if measured else reached


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
    """Return the share of all steps that is done, in [0, 1].

    An ended run counts as done; a damaged one does not count, as nothing will come of it.
    """
    points = [point for point in points if point.state != "damaged"]
    done = sum(point.num_steps if point.is_over else point.step for point in points)
    return done / max(1, sum(point.num_steps for point in points))


class StudyProgress:
    """Reads a study's run directories again and again, of the journals only what is new.

    A run that failed or was interrupted before this object was made waits for its next attempt. One
    of which a file is cut off, or of another version, is damaged.

    Args:
        directory: The study's directory.

    Raises:
        OSError: A ``job.json`` cannot be read.
    """

    def __init__(self, directory: StudyDirectory) -> None:
        self._readers = [PointReader(run) for run in directory.points()]

    def read(self) -> list[PointProgress]:
        """Return the points as they stand, in the order of the grid.

        Raises:
            OSError: A file cannot be read.
        """
        return [reader.read() for reader in self._readers]


class PointReader:
    """Reads one run directory again and again; see ``StudyProgress``.

    Args:
        directory: The run directory, with ``job.json``.

    Raises:
        OSError: ``job.json`` cannot be read.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        try:
            self._progress = _not_begun(directory.read_job())
        except DamagedFileError as fault:
            name = directory.path.name
            self._progress = PointProgress(name, "damaged", 0, 0, message=str(fault))
        self._offset = 0
        # A job that a killed flow has left will be adopted, and its attempt goes on.
        self._num_attempts_before = len(directory.attempts()) - is_alive(directory)

    def read(self) -> PointProgress:
        """Return the point as it stands.

        Raises:
            OSError: A file cannot be read.
        """
        # Slurm may start a stopped one again, and an attempt writes a damaged result anew.
        if self._progress.state in OVER - {"interrupted", "damaged"}:
            return self._progress
        try:
            self._advance()
        except DamagedFileError as fault:
            self._progress = replace(self._progress, state="damaged", message=str(fault))
        return self._progress

    def _advance(self) -> None:
        """Read what is new.

        Raises:
            DamagedFileError: A file is cut off, or of another version.
        """
        if self._progress.state == "damaged":
            known = _not_begun(self._directory.read_job())
            self._progress = replace(
                self._progress, label=known.label, num_steps=known.num_steps, unit=known.unit
            )
        result = self._directory.read_result()
        state = read_state(self._directory, result)
        if state == "waiting" and self._directory.stdout.exists():
            state = "running"  # it is importing what it needs
        if state != "finished" and 0 < len(self._directory.attempts()) <= self._num_attempts_before:
            state = "waiting"  # for its next attempt
        step, metrics = self._progress.step, dict[str, float]()
        for line, offset in read_journal(self._directory.journal, self._offset):
            self._offset, step = offset, line.step
            metrics |= line.metrics
        has_ended = result is not None and state == result.status
        before = self._progress
        told = result.message if result and has_ended else ""
        if state == "predicted" and (predicted := self._directory.read_predicted_only()):
            told = predicted.reason
        if state == "finished" and (reused := self._directory.read_reused()):
            told = f"reused from {reused.study}"
        self._progress = replace(
            before,
            state=state,
            step=step,
            loss=metrics.get(Metric.TRAIN_LOSS, before.loss),
            accuracy=metrics.get(Metric.TEST_ACCURACY, before.accuracy),
            tokens_per_s=metrics.get(Metric.TOKENS_PER_S, before.tokens_per_s),
            tflops=metrics.get(Metric.TFLOPS, before.tflops),
            message=told,
        )


def _not_begun(job: JobFile) -> PointProgress:
    experiment = job.experiment
    return PointProgress(job.point, "waiting", 0, experiment.num_steps, unit=experiment.unit)
