"""Checkpoints of a simulation: one safetensors file each, whole or absent."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import UNFENCED, Fence

_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a simulation needs to go on.

    Attributes:
        tensors: Named tensors; no two share storage.
        facts: Everything else, as JSON values; ``version`` and ``config_hash`` among them.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix/``, without it."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}


def save(directory: Path, checkpoint: Checkpoint, fence: Fence = UNFENCED) -> None:
    """Write a checkpoint atomically, then remove all but the newest two.

    Args:
        directory: Where the checkpoints of the run are; made if absent.
        checkpoint: What to keep.
        fence: Of the attempt that saves.

    Raises:
        Overtaken: There is a newer attempt; nothing has changed.
        OSError: It could not be written; earlier checkpoints are untouched.
    """
    directory.mkdir(exist_ok=True)
    path = directory / f"round-{checkpoint.facts['version']:010d}.safetensors"
    metadata = {"facts": json.dumps(checkpoint.facts)}
    save_tensors(path, checkpoint.tensors, metadata=metadata, fence=fence)
    for old in _newest_first(directory)[_KEPT:]:
        old.unlink(missing_ok=True)


def save_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    *,
    metadata: dict[str, str] | None = None,
    fence: Fence = UNFENCED,
    is_durable: bool = True,
) -> None:
    """Write a safetensors file that is there whole or not at all.

    Args:
        path: The file; its directory must exist.
        tensors: Named tensors, on any device.
        metadata: Texts for its header.
        fence: Of the attempt that saves.
        is_durable: Whether it is to survive a power cut from now on.

    Raises:
        Overtaken: There is a newer attempt; an earlier file of that name is untouched.
        OSError: It could not be written; an earlier file of that name is untouched.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with fence.replacement(path, is_durable=is_durable) as temporary:
        try:
            save_file(on_cpu, temporary, metadata=metadata)
        except SafetensorError as error:
            failure = _as_os_error(error, path)
            raise failure from error


def remove_temporaries(directory: Path) -> None:
    """Remove what savers that were killed have left; nobody else may be saving.

    Args:
        directory: Where they saved; may be absent.
    """
    for left_over in directory.glob(".*.safetensors.*"):
        left_over.unlink(missing_ok=True)


def load_newest(directory: Path, config_hash: str) -> Checkpoint | None:
    """Read the newest checkpoint that can be read.

    Args:
        directory: Where the checkpoints of the run are; may be absent.
        config_hash: Of the experiment that is to go on.

    Returns:
        The checkpoint; None if there is none.

    Raises:
        JobError: The checkpoints are of another configuration, or none can be read.
    """
    found = _newest_first(directory)
    for path in found:
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no iterator
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            continue
        if facts["config_hash"] != config_hash:
            raise JobError(
                Reason.CHECKPOINT,
                f"{path} is of configuration {facts['config_hash']}, the job is {config_hash}; "
                "begin a new run",
            )
        return Checkpoint(tensors, facts)
    if found:
        raise JobError(
            Reason.CHECKPOINT,
            f"none of the {len(found)} checkpoints in {directory} can be read; begin a new run",
        )
    return None


def kept_versions(directory: Path) -> list[int]:
    """List the rounds after which there is a checkpoint, oldest first.

    Args:
        directory: Where the checkpoints of the run are; may be absent.
    """
    return [int(path.stem.rpartition("-")[2]) for path in reversed(_newest_first(directory))]


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("round-*.safetensors"), reverse=True)


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    """Recover the error number that safetensors' native writer puts only into its message."""
    text = str(error)
    number = text.rpartition("os error ")[2].partition(")")[0]
    return OSError(int(number) if number.isdigit() else 0, text, str(path))
