"""Models and returns as files: safetensors, never pickle, with a checksum over all that they say.

Symbols: P parameters.
"""

import hashlib
import json
import math
import stat
from enum import StrEnum
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, deserialize
from torch import Tensor

from configs.arrivals import NumSteps
from configs.base import Record
from tasks.federated.checkpoint import save_tensors
from tasks.runtime.fence import Fence
from tasks.runtime.spool import ReturnName, read_replaced

_MODEL, _DELTA = "model", "delta"
_HEADER, _SHA256 = "header", "sha256"
_MOST_HEADER_BYTES = 1 << 16
_CODES = {torch.float32: "F32", torch.float64: "F64"}


class Refusal(StrEnum):
    """Why a return is not taken."""

    UNREADABLE = "unreadable"
    """No safetensors file, or cut off."""
    HEADER = "header"
    """It does not say what it is, or not what its name says."""
    CHECKSUM = "checksum"
    """Its bytes are not those that were sent."""
    CONFIG = "config"
    """Of another experiment."""
    WORKER = "worker"
    """Of a worker that does not exist, or never returns."""
    SHAPE = "shape"
    """Of another shape or type than the model."""
    NOT_FINITE = "not_finite"
    """NaN or infinite."""
    VERSION = "version"
    """From a version that was never published, or is kept no more."""
    OVERTAKEN = "overtaken"
    """Of an older attempt of a client than one that has returned already."""
    DUPLICATE = "duplicate"
    """Its number, or a later one of its worker, was taken already."""
    TOO_OLD = "too_old"
    """Older than the maximum delay."""


class Refused(Exception):  # noqa: N818  an answer
    """A return is not taken; the message says why.

    Attributes:
        reason: The class of reason.
    """

    def __init__(self, reason: Refusal, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ReturnHeader(Record):
    """What a return says of itself. Times are Unix seconds by the client's clock."""

    worker: int = Field(ge=0, description="Id of the worker.")
    sequence: int = Field(ge=0, lt=2**62, description="With the worker it names the return.")
    pulled: int = Field(ge=0, description="The version that the worker pulled.")
    token: int = Field(ge=0, description="Attempt of the client.")
    config_hash: str = Field(description="Hash of the experiment.")
    num_steps: NumSteps = Field(description="K, local steps.")
    pulled_at_s: float = Field(description="When the client pulled.")
    returned_at_s: float = Field(description="When the client returned.")
    partition: str = Field(default="", max_length=100, description="Where it was computed.")
    slurm_job: str = Field(default="", max_length=100, description="Slurm's id of the client.")

    @property
    def name(self) -> ReturnName:
        """Name of the return's file."""
        return ReturnName(self.worker, self.sequence, self.pulled, self.token)


def write_model(path: Path, model: Tensor, fence: Fence) -> str:
    """Write a version of the model.

    It is not made durable, which would keep everybody waiting: what a power cut takes, the server
    makes again from its log when it starts again.

    Args:
        path: Its file.
        model: Parameters, shape (P,).
        fence: Of the server's attempt.

    Returns:
        The SHA-256 of its bytes.

    Raises:
        Overtaken: There is a newer server.
        OSError: It cannot be written.
    """
    digest = _digest("", model)
    save_tensors(path, {_MODEL: model}, metadata={_SHA256: digest}, fence=fence, is_durable=False)
    return digest


def read_model(path: Path, like: Tensor) -> tuple[Tensor, str] | None:
    """Read a version of the model.

    Args:
        path: Its file.
        like: Any model: shape, type and device that are expected.

    Returns:
        The model, and the SHA-256 of its bytes; None if there is none, or it is damaged.
    """
    try:
        metadata, tensors = _read(path, {_MODEL: like})
    except (OSError, Refused):
        return None
    model = tensors[_MODEL]
    digest = _digest("", model)
    return (model.to(like.device), digest) if metadata.get(_SHA256) == digest else None


def write_return(directory: Path, header: ReturnHeader, delta: Tensor, fence: Fence) -> Path:
    """Hand a return in.

    Args:
        directory: Where returns lie.
        header: What it is.
        delta: The normalised change, shape (P,).
        fence: Of the client's attempt.

    Returns:
        The file.

    Raises:
        Overtaken: There is a newer client of this worker.
        OSError: It cannot be written.
    """
    text = header.model_dump_json()
    metadata = {_HEADER: text, _SHA256: _digest(text, delta)}
    path = directory / str(header.name)
    save_tensors(path, {_DELTA: delta}, metadata=metadata, fence=fence)
    return path


def read_return(path: Path, like: Tensor) -> tuple[ReturnHeader, Tensor]:
    """Read a return, and check that it is whole, finite, and what its name says.

    Args:
        path: Its file.
        like: Any model: shape, type and device that are expected.

    Returns:
        What it says, and the normalised change, shape (P,).

    Raises:
        Refused: It cannot be used.
        OSError: It cannot be read.
    """
    metadata, tensors = _read(path, {_DELTA: like})
    delta = tensors[_DELTA]
    text = metadata.get(_HEADER, "")
    try:
        header = ReturnHeader.model_validate_json(text)
    except ValidationError as error:
        raise Refused(Refusal.HEADER, f"no header of a return: {text[:200]!r}") from error
    if str(header.name) != path.name:
        raise Refused(Refusal.HEADER, f"says that it is {header.name}")
    if metadata.get(_SHA256) != _digest(text, delta):
        raise Refused(Refusal.CHECKSUM, "its checksum is not that of its bytes")
    # One sum is cheap; it may overflow for finite numbers, so a suspect is looked at again.
    if not (math.isfinite(float(delta.sum())) or bool(torch.isfinite(delta).all())):
        raise Refused(Refusal.NOT_FINITE, "not finite; lower worker.lr or set worker.clip_norm")
    return header, delta.to(like.device)


def _read(path: Path, expected: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a file whose tensors have the expected names, shapes and types.

    It is read, not mapped: a mapped file that is removed or cut meanwhile kills who looks at it.

    Raises:
        Refused: It is no such file.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused(Refusal.UNREADABLE, "no regular file")
    most = sum(like.nbytes for like in expected.values()) + _MOST_HEADER_BYTES
    content = read_replaced(path, most + 1)
    if not content:
        raise Refused(Refusal.UNREADABLE, "empty")
    if len(content) > most:
        raise Refused(Refusal.SHAPE, f"of more than {most} bytes")
    try:
        found = dict(deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise Refused(Refusal.UNREADABLE, str(error)) from error
    if set(found) != set(expected):
        raise Refused(Refusal.SHAPE, f"holds {sorted(found)}, not {sorted(expected)}")
    tensors = {}
    for name, like in expected.items():
        shape, code = tuple(found[name]["shape"]), found[name]["dtype"]
        if shape != tuple(like.shape):
            raise Refused(Refusal.SHAPE, f"is of shape {shape}, not {tuple(like.shape)}")
        if code != _CODES[like.dtype]:
            raise Refused(Refusal.SHAPE, f"is {code}, not {_CODES[like.dtype]}")
        tensors[name] = torch.frombuffer(found[name]["data"], dtype=like.dtype).reshape(shape)
    return _metadata(content), tensors


def _metadata(content: bytes) -> dict[str, str]:
    """Return the texts in the header of a file that safetensors has read."""
    num_bytes = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + num_bytes]).get("__metadata__") or {}
    return metadata


def _digest(text: str, tensor: Tensor) -> str:
    """Return the SHA-256 of a text and of a tensor's bytes."""
    digest = hashlib.sha256(text.encode())
    digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
