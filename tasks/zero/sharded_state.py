"""State that is spread over ranks, in files: saved by some ranks, loaded by others.

The files are those of PyTorch's distributed checkpoint (DCP): one of data for each rank, and an
index, ``.metadata``, of which interval of which tensor stands where. The index is a pickle, and who
reads a pickle runs what it says: only what lies in our own run directory is ever read. While they
plan a save, DCP's ranks send each other pickles, too (its collectives of objects), which nothing
guards but that no stranger joins, see ``rendezvous``; loading asks no other rank.

A state is a flat mapping of names to ``FlatSlice``, ``DTensor``, tensors that are the same on all
ranks, and JSON values.
"""

import io
import json
import os
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from tasks.runtime.errors import JobError, Reason
from tasks.zero.background import Background
from tasks.zero.flat_slices import FlatSlice

_MOST_FAULTS = 3


class StateSave:
    """A state that is being written; a ``PendingSave``."""

    def __init__(self, written: Background[None]) -> None:
        self._written = written

    def is_done(self) -> bool:
        """Say, without waiting, whether the state is written, or has failed to be."""
        return self._written.is_done()

    def wait(self) -> None:
        """Wait until all ranks have written their parts.

        Raises:
            OSError: A rank could not write; all ranks raise the same.
            RuntimeError: A rank is lost.
        """
        self._written.result()


def begin_save(directory: Path, state: Mapping[str, object], group: dist.ProcessGroup) -> StateSave:
    """Copy a state to the CPU, and begin to write the copy. All ranks of the group call it.

    What several ranks have, one of them writes.

    Args:
        directory: Where to; the same on all ranks, it exists and is empty.
        state: This rank's part; it may change as soon as this returns.
        group: Of gloo, for nothing else while a state is being written: the collectives of the
            writing, on its own thread, would get between others.

    Returns:
        What is being written.

    Raises:
        TypeError: A value is neither a tensor nor of JSON.
    """
    copy = {name: _staged(name, value) for name, value in state.items()}
    return StateSave(Background("save", lambda: _write(directory, copy, group)))


def saved_tensors(directory: Path, prefix: str) -> dict[str, Tensor]:
    """Return tensors to load into, for those that were saved under names with a prefix.

    Args:
        directory: Where a state was saved.
        prefix: Of the names.

    Returns:
        Name -> a tensor of the right shape and type; its values are arbitrary.

    Raises:
        OSError: It cannot be read.
    """
    return {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in _saved(directory, prefix).items()
    }


def has_saved(directory: Path, prefix: str) -> bool:
    """Say whether any tensor was saved under a name with a prefix.

    Args:
        directory: Where a state was saved.
        prefix: Of the name.

    Raises:
        OSError: It cannot be read.
    """
    return bool(_saved(directory, prefix))


def _saved(directory: Path, prefix: str) -> dict[str, TensorStorageMetadata]:
    metadata = FileSystemReader(directory).read_metadata()  # a pickle of ours, as all of DCP's
    return {
        name: one
        for name, one in metadata.state_dict_metadata.items()
        if name.startswith(prefix) and isinstance(one, TensorStorageMetadata)
    }


def load_state(directory: Path, state: MutableMapping[str, object]) -> None:
    """Load a state, in place; what is no tensor is exchanged in the mapping.

    Every rank reads for itself what it needs, so that there may be other ranks than at the saving,
    with other parts.

    Args:
        directory: Where it was saved.
        state: This rank's part, with the names and sizes of what is loaded; what the checkpoint
            has besides is left there, as other ranks may have it.

    Raises:
        JobError: It is of another model, or damaged.
        OSError: It cannot be read.
    """
    target: dict[str, object] = dict(state)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is as we want
            load(
                target,
                storage_reader=FileSystemReader(directory),
                planner=_LoadPlanner(directory),
                no_dist=True,
            )
    except CheckpointException as error:
        failure = next(cause for cause, _ in error.failures.values())
        if isinstance(failure, JobError | OSError):
            raise failure from error
        raise JobError(
            Reason.CHECKPOINT,  # without torch's words, which advise to read it as an unsafe pickle
            f"{directory} cannot be read ({type(failure).__name__}); remove it, and the one before "
            "is taken",
        ) from error
    state.update(target)


class _StagedShard:
    """Copy of a rank's part of a spread tensor; what DCP asked of that, it asks of this."""

    def __init__(self, items: list[WriteItem], values: Tensor) -> None:
        self._items = items
        self._values = values

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
        return self._items

    def __get_tensor_shard__(self, _: MetadataIndex) -> Tensor:
        return self._values


def _staged(name: str, value: object) -> object:
    """Copy one value of a state.

    Raises:
        TypeError: It is neither a tensor nor of JSON.
    """
    if isinstance(value, FlatSlice):
        return _StagedShard(value.__create_write_items__(name, value), _copied(value.inside))
    if isinstance(value, DTensor):
        return _StagedShard(value.__create_write_items__(name, value), _copied(value.to_local()))
    if isinstance(value, Tensor):
        return _copied(value)
    return json.dumps(value)


def _copied(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu").copy_(tensor.detach())


def _write(directory: Path, state: dict[str, object], group: dist.ProcessGroup) -> None:
    """Write a staged state.

    Raises:
        OSError: A rank could not write.
        RuntimeError: A rank is lost, or has failed in another way.
    """
    try:
        save(
            state,
            storage_writer=_Writer(directory),
            planner=_SavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=group,
        )
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise failure from error
        raise RuntimeError(str(error)) from error  # DCP's own is no Exception


class _ExistingDirectories(FileSystem):
    """Makes no directory: one that was taken away from an overtaken attempt must not come back."""

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        del path


class _Writer(FileSystemWriter):
    """Writes files as DCP does, into a directory that exists; a full disk is told as such."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, per_thread_copy_ahead=0)  # all is on the CPU already
        self.fs = _ExistingDirectories()

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            # torch's zip writer, which closes its file while the real error passes it.
            cause = error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(self.path)) from error
            raise


class _SavePlanner(DefaultSavePlanner):
    """DCP's planner, for spread tensors that are no ``Tensor``, too."""

    def lookup_object(self, index: MetadataIndex) -> object:
        found = self.state_dict[index.fqn]
        return found.__get_tensor_shard__(index) if isinstance(found, _StagedShard) else found


class _LoadPlanner(DefaultLoadPlanner):
    """DCP's planner, for spread tensors that are no ``Tensor``, too; it converts no types."""

    def __init__(self, directory: Path) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._directory = directory

    def set_up_planner(
        self,
        state_dict: dict[str, object],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,  # noqa: FBT001, FBT002  as in DCP
    ) -> None:
        faults = _faults(state_dict, metadata) if metadata else []
        if faults:
            more = f" and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
            raise JobError(
                Reason.CHECKPOINT,
                f"{self._directory} is of another model: {'; '.join(faults[:_MOST_FAULTS])}{more}; "
                "continue with the model, the engine and the types it was saved with, or begin a "
                "new run",
            )
        self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        text = torch.load(value, weights_only=True)
        self.state_dict[read_item.dest_index.fqn] = json.loads(text)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        found = self.state_dict[index.fqn]
        if isinstance(found, FlatSlice):
            return found.__get_tensor_shard__(index)
        return super().lookup_tensor(index)


def _faults(state: Mapping[str, object], metadata: Metadata) -> list[str]:
    """Say in what a state and a checkpoint differ."""
    saved = {
        name: f"{one.properties.dtype} {tuple(one.size)}"
        if isinstance(one, TensorStorageMetadata)
        else "a value"
        for name, one in metadata.state_dict_metadata.items()
    }
    return [
        f"{name} is {saved.get(name, 'absent')} there and {_described(value)} here"
        for name, value in state.items()
        if saved.get(name) != _described(value)
    ]


def _described(value: object) -> str:
    if isinstance(value, FlatSlice):
        return f"{value.tensor.dtype} {(value.total,)}"
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return "a value"
