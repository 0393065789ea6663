"""``metrics.jsonl``: append-only, each line once, also over crashes.

A restarted engine computes again from its last checkpoint and so comes again to lines that are
already written. The lines are numbered: what is there is not written again. A reader may therefore
keep a byte offset for ever. Only a line that was cut off in the middle is taken back; readers never
take a line without its end.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tasks.runtime.records import JOURNAL_LINE, JournalLine


class Journal:
    """Writer of one run's journal.

    Args:
        path: The file; made if absent, continued if present.
        sequence: Number of the first line that will be offered (from the checkpoint).

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file has fewer lines than the checkpoint says: it was cut or replaced.
    """

    def __init__(self, path: Path, sequence: int = 0) -> None:
        self._path = path
        self._sequence = sequence
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._num_written = _cut_torn_line(self._descriptor)
        if self._num_written < sequence:
            raise ValueError(
                f"{path} has {self._num_written} lines, but the checkpoint was taken after "
                f"{sequence}; remove the run's checkpoints to compute it from the beginning"
            )

    @property
    def sequence(self) -> int:
        """Number of the next line."""
        return self._sequence

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line, unless it stands there from an earlier attempt.

        Args:
            step: The round.
            metrics: Name -> value; values that are not finite are left out.

        Raises:
            OSError: The line could not be written; nothing of it stays in the file.
        """
        if self._sequence >= self._num_written:
            line = {
                "sequence": self._sequence,
                "step": step,
                "timestamp_ms": time.time_ns() // 1_000_000,
                "metrics": finite(metrics),
            }
            self._append((json.dumps(line) + "\n").encode())
            self._num_written += 1
        self._sequence += 1

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # a full disk may take a part, and say so at the next write
                os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            error.filename = str(self._path)
            raise

    def sync(self) -> None:
        """Make what was written survive a power cut; to be called before a checkpoint."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Leave out NaN and infinity, which JSON has not and MLflow cannot plot.

    Args:
        metrics: Name -> value.

    Returns:
        Those that are finite numbers.
    """
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _cut_torn_line(descriptor: int) -> int:
    """Remove a last line without its end, and count the lines."""
    num_lines, end, position = 0, 0, 0
    while chunk := os.pread(descriptor, 1 << 20, position):
        num_lines += chunk.count(b"\n")
        if (last := chunk.rfind(b"\n")) >= 0:
            end = position + last + 1
        position += len(chunk)
    if position > end:
        os.ftruncate(descriptor, end)
    return num_lines


def read_journal(path: Path, offset: int = 0) -> Iterator[tuple[JournalLine, int]]:
    """Read the complete lines from a byte offset on.

    Args:
        path: The journal; an absent one has no lines.
        offset: Where to begin; an offset that this function gave, or 0.

    Yields:
        Each line, with the offset behind it.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield JOURNAL_LINE.validate_json(raw), offset
