"""A rank's interval of a flat vector, in the terms of PyTorch's distributed checkpoint."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True, eq=False)
class FlatSlice:
    """An interval of a flat vector, which ranks save and load together.

    The intervals of all ranks cover the vector; two of them are equal (replicas, which are written
    once) or apart. They may reach over its end, or lie behind it, where a layout has padding: what
    is there is not saved, and stays as it is when the rest is loaded.

    Attributes:
        total: Elements of the whole vector, without padding.
        offset: Where the interval begins.
        tensor: Its values, of one dimension.

    Raises:
        ValueError: Such a vector or interval there is not.
    """

    total: int
    offset: int
    tensor: Tensor

    def __post_init__(self) -> None:
        if self.total < 1 or self.offset < 0 or self.tensor.dim() != 1:
            raise ValueError(
                f"no interval: {tuple(self.tensor.shape)} at {self.offset} of {self.total}"
            )

    @property
    def inside(self) -> Tensor:
        """Its values without padding; a view, maybe of no element."""
        return self.tensor[: max(0, self.total - self.offset)]

    # The protocol of torch.distributed._checkpointable. Its names begin and end with underscores,
    # so that they are not those of a private attribute of this class.

    def __create_write_items__(self, fqn: str, _: object) -> list[WriteItem]:
        """Return what is to be written: one chunk, or nothing."""
        if not self.inside.numel():
            return []
        return [
            WriteItem(
                index=MetadataIndex(fqn, (self.offset,)),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=self._chunk(),
                    properties=TensorProperties(dtype=self.tensor.dtype),
                    size=torch.Size((self.total,)),
                ),
            )
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return what is to be read: one chunk, or nothing."""
        return [self._chunk()] if self.inside.numel() else []

    def __get_tensor_shard__(self, _: MetadataIndex) -> Tensor:
        """Return where the chunk's values are."""
        return self.inside

    def _chunk(self) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(
            offsets=torch.Size((self.offset,)), sizes=torch.Size((self.inside.numel(),))
        )
