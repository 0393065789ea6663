"""How a row of quantized numbers lies in memory, and in which tiles the rows are worked on.

A payload is one uint8 row: the bytes of all blocks, zeros up to a multiple of 4, then one float32
scale a block. The last block may be short. An INT4 block of s values takes h = ceil(s / 2) bytes;
byte j is ``q[j] + 16 q[h + j]`` as a signed number: halves rather than neighbours, so that all runs
of numbers are contiguous.

Letters: R rows, n values of a row, p bytes of a payload; b blocks of s values, of c bytes each.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SCALE_BYTES = 4


@dataclass(frozen=True)
class Blocks:
    """The format of one row.

    Attributes:
        length: n, values of the row.
        bits: 8 or 4.
        block_size: Values that share a scale; even for 4 bits.

    Raises:
        ValueError: One of them is not as above.
    """

    length: int
    bits: int
    block_size: int

    def __post_init__(self) -> None:
        if self.bits not in {4, 8}:
            raise ValueError(f"{self.bits} bits; use 8 or 4")
        if self.block_size < 1 or (self.bits == 4 and self.block_size % 2):
            allowed = "1 or more" if self.bits == 8 else "an even number, 2 or more"
            raise ValueError(f"{self.bits}-bit blocks of {self.block_size} values; use {allowed}")
        if self.length < 0:
            raise ValueError(f"{self.length} values; use 0 or more")

    @property
    def largest(self) -> int:
        """The largest q: 127 or 7."""
        return 127 if self.bits == 8 else 7

    @property
    def num_blocks(self) -> int:
        """Blocks of the row, a last short one included."""
        return -(-self.length // self.block_size)

    @property
    def scales_begin(self) -> int:
        """Where the scales begin; a multiple of 4."""
        return -(-self.code_bytes(self.length) // SCALE_BYTES) * SCALE_BYTES

    @property
    def payload_bytes(self) -> int:
        """Bytes of the row; a multiple of 4."""
        return self.scales_begin + SCALE_BYTES * self.num_blocks

    def code_bytes(self, num_values: int) -> int:
        """Return the bytes of so many values from the beginning of a block on.

        Args:
            num_values: Whole blocks, or a last short one, or both.
        """
        return num_values if self.bits == 8 else -(-num_values // 2)

    def codes(self, payload_Rp: Tensor) -> Tensor:
        """Return the bytes of the values, as signed numbers; a view.

        Args:
            payload_Rp: uint8.
        """
        return payload_Rp[:, : self.code_bytes(self.length)].view(torch.int8)

    def scales(self, payload_Rp: Tensor) -> Tensor:
        """Return the scales, shape (R, blocks), float32; a view.

        Args:
            payload_Rp: uint8.
        """
        return payload_Rp[:, self.scales_begin :].view(torch.float32)


def tiles(
    values_Rn: Tensor, payload_Rp: Tensor, blocks: Blocks, most_values: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cut rows into tiles of equal blocks: whole blocks first, then the rows' last short ones.

    Args:
        values_Rn: Of any type.
        payload_Rp: uint8.
        blocks: Their format.
        most_values: Of a tile, unless a single block has more.

    Yields:
        Of each tile the values, shape (..., b, s), the codes, shape (..., b, c), and the scales,
        shape (..., b, 1): views.
    """
    codes_Rc, scales_Rb = blocks.codes(payload_Rp), blocks.scales(payload_Rp)
    num_whole, rest = divmod(blocks.length, blocks.block_size)
    for first, num_blocks, size in ((0, num_whole, blocks.block_size), (num_whole, 1, rest)):
        if not num_blocks * size:
            continue
        begin = first * blocks.block_size
        parts = (
            _cut(values_Rn, begin, num_blocks, size),
            _cut(codes_Rc, blocks.code_bytes(begin), num_blocks, blocks.code_bytes(size)),
            _cut(scales_Rb, first, num_blocks, 1),
        )
        step = max(1, most_values // size)
        if len(values_Rn) * num_blocks <= step:
            yield parts
        elif num_blocks <= step:
            yield from zip(*(torch.split(part, step // num_blocks) for part in parts), strict=True)
        else:
            for rows in zip(*parts, strict=True):
                yield from zip(*(torch.split(row, step) for row in rows), strict=True)


def _cut(tensor: Tensor, begin: int, num_blocks: int, width: int) -> Tensor:
    """Return blocks of all rows, shape (R, blocks, width); one view, as many views cost time."""
    row, one = tensor.stride()
    offset = tensor.storage_offset() + begin * one
    return tensor.as_strided((len(tensor), num_blocks, width), (row, width * one, one), offset)
