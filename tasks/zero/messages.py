"""Short messages between ranks, as JSON in plain tensors: what comes over the network is only read.

PyTorch's collectives of objects (``all_gather_object`` and its like) unpickle what they receive,
and who reads a pickle runs what it says. Nobody asks a rank who it is, see ``rendezvous``.
"""

from typing import Literal, NoReturn, TypeVar

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Overtaken

_MOST_BYTES = 1 << 20
"""Of a message; so that a wrong length takes no memory."""

_ADVICE = (
    "it has another version, or is no rank of this training; see that nobody else reaches the "
    "ports of the job's nodes (docs/zero.md), then continue with: watershed resume"
)

_Message = TypeVar("_Message", bound=BaseModel)


class Failure(BaseModel):
    """What went wrong on a rank, so that the others can raise it, too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["job", "overtaken", "system"] = Field(description="Which class of error.")
    message: str = Field(description="Its words.")
    reason: Reason = Field(default=Reason.INTERNAL, description="Of a ``JobError``.")
    number: int | None = Field(default=None, description="Of an ``OSError``, if it has one.")
    paths: tuple[str | None, str | None] = Field(
        default=(None, None), description="The files of an ``OSError``."
    )

    @classmethod
    def of(cls, error: JobError | Overtaken | OSError) -> "Failure":
        """Describe an error.

        Args:
            error: What was raised.
        """
        if isinstance(error, JobError):
            return cls(kind="job", message=_printable(error), reason=error.reason)
        if isinstance(error, Overtaken):
            return cls(kind="overtaken", message=_printable(error))
        if error.errno is None:
            return cls(kind="system", message=_printable(error))
        first, second = (
            None if path is None else _printable(path) for path in (error.filename, error.filename2)
        )
        message = _printable(error.strerror)
        return cls(kind="system", message=message, number=error.errno, paths=(first, second))

    def again(self) -> NoReturn:
        """Raise the error that was described.

        Raises:
            JobError: It was one.
            Overtaken: It was one.
            OSError: It was one.
        """
        if self.kind == "job":
            raise JobError(self.reason, self.message)
        if self.kind == "overtaken":
            raise Overtaken(self.message)
        if self.number is None:
            raise OSError(self.message)
        path, other = self.paths
        raise OSError(self.number, self.message, path, None, other)


def _printable(text: object) -> str:
    """Return text that JSON can hold: a name of a file may have bytes that are no characters."""
    return str(text).encode(errors="backslashreplace").decode()


def broadcast(message: _Message, group: dist.ProcessGroup) -> _Message:
    """Tell all ranks what rank 0 says.

    Args:
        message: On rank 0 what it says; on the others any message of its kind.
        group: Of gloo; all of its ranks call this.

    Returns:
        What rank 0 says.

    Raises:
        JobError: What came is no such message.
        RuntimeError: A rank is lost.
    """
    data = _bytes_of(message)
    length = torch.tensor([len(data)])
    dist.broadcast(length, group_src=0, group=group)
    if dist.get_rank(group) != 0:
        data = torch.empty(_checked(length), dtype=torch.uint8)
    dist.broadcast(data, group_src=0, group=group)
    return _read(type(message), data)


def gather(message: _Message, group: dist.ProcessGroup) -> list[_Message]:
    """Tell all ranks what each says.

    Args:
        message: What this rank says.
        group: Of gloo; all of its ranks call this.

    Returns:
        What each says, by rank.

    Raises:
        JobError: What came is no such message.
        RuntimeError: A rank is lost.
    """
    data = _bytes_of(message)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([len(data)]), group=group)
    sizes = [_checked(length) for length in lengths]
    longest = max(sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(data)] = data
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    kind = type(message)
    return [_read(kind, part[:size]) for part, size in zip(parts, sizes, strict=True)]


def _bytes_of(message: BaseModel) -> Tensor:
    return torch.frombuffer(bytearray(message.model_dump_json().encode()), dtype=torch.uint8)


def _checked(length: Tensor) -> int:
    """Return a length that was received.

    Raises:
        JobError: No message is so long.
    """
    size = int(length)
    if not 0 < size <= _MOST_BYTES:
        raise JobError(Reason.RANKS, f"a rank has sent a message of {size} bytes; {_ADVICE}")
    return size


def _read(kind: type[_Message], data: Tensor) -> _Message:
    """Read a message that was received.

    Raises:
        JobError: It is none of this kind.
    """
    try:
        return kind.model_validate_json(data.numpy().tobytes())
    except ValidationError as error:
        found = f"{len(data)} bytes that are no {kind.__name__.strip('_').lower()} as JSON"
        raise JobError(Reason.RANKS, f"a rank has sent {found}; {_ADVICE}") from error
