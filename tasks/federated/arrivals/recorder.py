"""Who returned when, written as a CSV that ``kind: trace`` replays."""

import os
from pathlib import Path
from types import TracebackType

from configs.trace import COLUMNS
from tasks.federated.arrivals.interface import Arrivals
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import UNFENCED, Fence

_FLUSH_BYTES = 1 << 16


def trace_rows(arrivals: Arrivals) -> list[str]:
    """Return the CSV lines of one buffer, without line ends, in the order of ``COLUMNS``.

    Times are written in the shortest form that reads back as the same float.
    """
    columns = (
        arrivals.worker.tolist(),
        arrivals.pulled_at_s.tolist(),
        arrivals.returned_at_s.tolist(),
        arrivals.num_steps.tolist(),
        arrivals.sequence.tolist(),
        arrivals.pulled.tolist(),
    )
    return [",".join(map(repr, row)) for row in zip(*columns, strict=True)]


class TraceRecorder:
    """Appends the buffers of a run to its trace.

    Args:
        path: The CSV file; made if absent.
        num_bytes: How much of it the checkpoint knows; what stands behind that is cut off.
        fence: Of the attempt that writes.

    Raises:
        Overtaken: There is a newer attempt.
        JobError: The file is shorter than the checkpoint says.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, num_bytes: int = 0, fence: Fence = UNFENCED) -> None:
        found = path.stat().st_size if path.exists() else 0
        if found < num_bytes:
            raise JobError(
                Reason.TRACE,
                f"{path} has {found} bytes, but the checkpoint was taken after {num_bytes}; begin "
                "a new run",
            )
        self._file = os.fdopen(fence.continue_file(path, num_bytes), "ab")
        self._pending = b"" if num_bytes else (",".join(COLUMNS) + "\n").encode()

    def add(self, arrivals: Arrivals) -> None:
        """Append a buffer; it may stay in memory until ``flush``.

        Args:
            arrivals: The buffer.

        Raises:
            OSError: The rows could not be written.
        """
        self._pending += "".join(row + "\n" for row in trace_rows(arrivals)).encode()
        if len(self._pending) > _FLUSH_BYTES:
            self._write()

    def flush(self) -> int:
        """Make all rows so far durable.

        Returns:
            The bytes of the file, for the checkpoint.

        Raises:
            OSError: The rows could not be written.
        """
        self._write()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def _write(self) -> None:
        self._file.write(self._pending)
        self._file.flush()
        self._pending = b""

    def close(self) -> None:
        """Close the file; rows that were not flushed are lost."""
        self._file.close()

    def __enter__(self) -> "TraceRecorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
