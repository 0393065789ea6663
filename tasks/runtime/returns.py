"""``returns.jsonl``: which returns a server has taken, in order; written ahead of their use.

A return counts once its line is on the disk, and the server uses it only then. What a server that
was killed had taken since its last checkpoint, its successor finds here, in the same order.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import UNFENCED, Fence
from tasks.runtime.records import RETURN_LINE, ReturnLine


class ReturnsLog:
    """Writer of one run's returns.

    Args:
        path: The file; made if absent, continued if present. A torn last line is cut off.
        fence: Of the attempt that writes.

    Raises:
        Overtaken: There is a newer attempt.
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, fence: Fence = UNFENCED) -> None:
        self._path, self._fence = path, fence
        content = path.read_bytes() if path.exists() else b""
        self.num_bytes = content.rfind(b"\n") + 1
        self._descriptor = fence.continue_file(path, self.num_bytes)

    def behind(self, offset: int) -> list[tuple[ReturnLine, int]]:
        """Read the lines that stand behind a checkpoint.

        Args:
            offset: Bytes that the checkpoint knows.

        Returns:
            Each line, with the offset behind it.

        Raises:
            JobError: The file is shorter than the checkpoint says, or damaged.
        """
        if offset > self.num_bytes:
            raise JobError(
                Reason.RETURNS,
                f"{self._path} has {self.num_bytes} bytes, but the checkpoint was taken after "
                f"{offset}: it was cut or replaced; begin a new run",
            )
        try:
            return list(read_returns(self._path, offset))
        except ValidationError as error:
            raise JobError(
                Reason.RETURNS, f"{self._path} is damaged behind byte {offset}; begin a new run"
            ) from error

    def append(self, lines: Sequence[ReturnLine]) -> None:
        """Append lines, and make them survive a power cut.

        Args:
            lines: Returns, in the order in which they are used.

        Raises:
            Overtaken: There is a newer attempt; the file is as that one has it.
            OSError: They could not be written; nothing of them stays in the file.
        """
        self._fence.check()
        content = "".join(line.model_dump_json() + "\n" for line in lines).encode()
        left = content
        try:
            while left:  # a full disk may take a part, and say so at the next write
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self.num_bytes)
            error.filename = str(self._path)
            raise
        self.num_bytes += len(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> "ReturnsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_returns(path: Path, offset: int = 0) -> Iterator[tuple[ReturnLine, int]]:
    """Read the complete lines from a byte offset on.

    Args:
        path: ``returns.jsonl``; an absent one has no lines.
        offset: Where to begin; an offset that this function gave, or 0.

    Yields:
        Each line, with the offset behind it.

    Raises:
        OSError: The file cannot be read.
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
            yield RETURN_LINE.validate_json(raw), offset
