"""Follows one run's journal and sends what is new to MLflow, each point once.

A batch is sent first and the cursor stored after it. Killed in between, or after MLflow took a
batch whose answer was lost, the follower sends that batch again; MLflow finds the rows there (see
``tasks.tracking.store``). Nothing here writes to the job's own files or waits for MLflow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.journal import read_journal
from tasks.runtime.records import JournalLine
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.backoff import Backoff
from tasks.tracking.cursor import read_cursor, write_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.store import MAX_METRICS_PER_BATCH, open_store
from tasks.tracking.stored import MetricPoint


@dataclass(frozen=True)
class Followed:
    """What a poll did.

    Attributes:
        num_sent: Points sent now.
        error: Why it could not send everything; None if it did.
        retry_in_s: Seconds until it tries again; polls before then do nothing.
    """

    num_sent: int
    error: str | None = None
    retry_in_s: float = 0.0


class RunFollower:
    """Sends one run's journal.

    Args:
        directory: The run.
        run_id: Its MLflow run.
        tracking_uri: Where that is.
        backoff: When to try again after a failure.
    """

    def __init__(
        self,
        directory: RunDirectory,
        run_id: str,
        tracking_uri: str,
        backoff: Backoff | None = None,
    ) -> None:
        self._directory = directory
        self._run_id = run_id
        self._store = open_store(tracking_uri)
        self._backoff = backoff or Backoff()

    def poll(self) -> Followed:
        """Send what is new, unless MLflow failed so recently that it is too early to try.

        Returns:
            What was sent, and what went wrong; nothing is raised for MLflow's failures.
        """
        num_sent = 0
        if not self._backoff.remaining_s:
            try:
                num_sent = self.send()
                self._backoff.succeeded()
            except TrackingError as error:
                self._backoff.failed(error)
        return Followed(num_sent, self._backoff.error, self._backoff.remaining_s)

    def send(self) -> int:
        """Send what is new.

        Returns:
            The number of points sent.

        Raises:
            TrackingError: Something could not be sent; the next call begins there.
        """
        cursor = read_cursor(self._directory, self._store.tracking_uri)
        num_sent = 0
        lines = _unsent_lines(self._directory.journal, cursor.offset, cursor.sequence)
        try:
            for batch in _batches(lines):
                points = [point for line, _ in batch for point in _points(line)]
                self._store.log_points(self._run_id, points)
                num_sent += len(points)
                last, offset = batch[-1]
                cursor = cursor.model_copy(
                    update={
                        "run_id": self._run_id,
                        "offset": offset,
                        "sequence": last.sequence + 1,
                    }
                )
                write_cursor(self._directory, cursor)
        except ValueError as error:
            raise TrackingError(
                f"{self._directory.journal} has an unreadable line after number "
                f"{cursor.sequence - 1}: {error}",
                permanent=True,
            ) from error
        return num_sent


def _unsent_lines(path: Path, offset: int, sequence: int) -> Iterator[tuple[JournalLine, int]]:
    """Read the lines that were not sent, each with the offset behind it.

    After a power cut at the compute node the journal may be shorter than what was read of it, and
    the engine writes those lines anew, with other timestamps. They are known by their numbers.
    """
    if not path.exists():
        return
    try:
        first = next(read_journal(path, offset), None)
        in_place = path.stat().st_size >= offset and (not first or first[0].sequence == sequence)
    except ValueError:  # the offset is in the middle of a line
        in_place = False
    for line, end in read_journal(path, offset if in_place else 0):
        if line.sequence >= sequence:
            yield line, end


def _batches(
    lines: Iterator[tuple[JournalLine, int]],
) -> Iterator[list[tuple[JournalLine, int]]]:
    """Group lines so that each group's points fit into one request."""
    batch: list[tuple[JournalLine, int]] = []
    size = 0
    for line, end in lines:
        if batch and size + len(line.metrics) > MAX_METRICS_PER_BATCH:
            yield batch
            batch, size = [], 0
        batch.append((line, end))
        size += len(line.metrics)
    if batch:
        yield batch


def _points(line: JournalLine) -> list[MetricPoint]:
    return [
        MetricPoint(name, value, line.timestamp_ms, line.step)
        for name, value in line.metrics.items()
    ]
