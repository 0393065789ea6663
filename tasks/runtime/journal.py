"""``metrics.jsonl``: append-only, each line once, also over crashes.

A restarted engine computes again from its last checkpoint and so comes again to lines that are
already written. The lines are numbered: what is there is not written again. A reader may therefore
keep a byte offset for ever. Only a line that was cut off in the middle is taken back; readers never
take a line without its end.

Two incarnations of a run do not write into each other's lines, as the newer one continues a copy
(see ``fence``). Should it happen all the same, on a file system without locks and without Slurm,
lines are still told apart by their numbers. The first line with a number counts, later ones are
passed over, and so is what cannot be read, unless the number that it hid never comes: a jump in the
numbers is an error, not a gap.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.fence import UNFENCED, Fence
from tasks.runtime.records import JOURNAL_LINE, JournalLine

_BLOCK_BYTES = 1 << 14


class JournalGapError(DamagedFileError):
    """A number is missing in a journal."""

    def __init__(self, path: Path, number: int) -> None:
        fault = f"has no readable line of number {number}, but later ones"
        super().__init__(path, fault, "begin a new run")


class Journal:
    """Writer of one run's journal.

    Args:
        path: The file; made if absent, continued if present.
        sequence: Number of the first line that will be offered (from the checkpoint).
        fence: Of the attempt that writes.

    Raises:
        Overtaken: There is a newer attempt.
        OSError: The file cannot be opened.
        ValueError: The file has fewer lines than the checkpoint says: it was cut or replaced.
    """

    def __init__(self, path: Path, sequence: int = 0, fence: Fence = UNFENCED) -> None:
        self._path = path
        self._sequence = sequence
        self._num_written, num_bytes = _whole_lines(path)
        if self._num_written < sequence:
            raise ValueError(
                f"{path} has {self._num_written} lines, but the checkpoint was taken after "
                f"{sequence}; begin a new run"
            )
        self._descriptor = fence.continue_file(path, num_bytes)

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


def _whole_lines(path: Path) -> tuple[int, int]:
    """Count the lines that can be read one after another, and the bytes that they end at."""
    num_lines = num_bytes = 0
    try:
        for line, end in read_journal(path):
            num_lines, num_bytes = line.sequence + 1, end
    except JournalGapError:  # what follows the gap is computed again
        pass
    return num_lines, num_bytes


def read_journal(path: Path, offset: int = 0) -> Iterator[tuple[JournalLine, int]]:
    """Read the complete lines from a byte offset on, each number once.

    Args:
        path: The journal; an absent one has no lines.
        offset: Where to begin: an offset that this function gave, or 0. If no line ends there, the
            file is another one by now, and is read from its beginning.

    Yields:
        Each line, with the offset behind it.

    Raises:
        JournalGapError: A line that cannot be read has hidden its number for good.
        OSError: The file cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        number = _next_number(file, offset)
        if number == 0:
            offset = 0
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            line = _parse(raw)
            if line is None or line.sequence < number:
                continue
            if line.sequence > number:
                raise JournalGapError(path, number)
            number += 1
            yield line, offset


def _next_number(file: BinaryIO, offset: int) -> int:
    """Return the number behind that of the line which ends at an offset; 0 if none does."""
    size = 0
    while size < offset:
        size = min(offset, size + _BLOCK_BYTES)
        file.seek(offset - size)
        block = file.read(size)
        if len(block) < size or not block.endswith(b"\n"):
            return 0
        start = block.rfind(b"\n", 0, -1) + 1
        if start or size == offset:
            line = _parse(block[start:])
            return line.sequence + 1 if line else 0
    return 0


def _parse(raw: bytes) -> JournalLine | None:
    try:
        return JOURNAL_LINE.validate_json(raw)
    except ValueError:
        return None
