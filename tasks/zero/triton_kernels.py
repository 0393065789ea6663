"""The arithmetic of ``quantize`` for CUDA devices: one pass over memory each, the same bits.

One program takes some blocks of one row, as two tiles of half a block each ("low" and "high", as
INT4 codes pair them; with INT8 too, so that there is one code). Where all of its blocks are whole,
the halves are known when the kernel is compiled, and a thread moves up to 16 bytes at a time. The
last block of a row may be short: its halves are then shorter, and masked value by value. Rows and
blocks have even numbers of values: of odd ones, some kernels lost a value (Triton 3.6 on an H100).

Nothing may be rounded otherwise than in plain torch: divisions are rounded to nearest
(``div_rn``), and products are not fused with sums (``enable_fp_fusion=False``). Adding 1.5 * 2^23
rounds half to even, and leaves the code in the low byte of the sum.

Letters as in ``blocks``. Only import this where there is a CUDA device: it needs triton.
"""

# mypy sees triton on some machines only.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, unused-ignore"

import torch
import triton
import triton.language as tl
from torch import Tensor

from tasks.zero.blocks import SCALE_BYTES, Blocks

_VALUES_OF_A_PROGRAM = 2048
_VALUES_OF_A_WARP = 512
_MOST_ROWS = 65_535
_INFINITY_BITS = tl.constexpr(0x7F800000)
_MAGNITUDE_BITS = tl.constexpr(0x7FFFFFFF)
_LEAST_SCALE = tl.constexpr(2.0**-125)
_ROUNDER = tl.constexpr(1.5 * 2.0**23)
_SCALE_BYTES = tl.constexpr(SCALE_BYTES)
_CODES = tl.constexpr(tl.pointer_type(tl.int8))
_SCALES = tl.constexpr(tl.pointer_type(tl.float32))


def quantize(values_Rn: Tensor, payload_Rp: Tensor, blocks: Blocks) -> None:
    """Write the payloads of rows.

    Args:
        values_Rn: Of any floating type.
        payload_Rp: uint8.
        blocks: Their format.
    """
    if blocks.code_bytes(blocks.length) < blocks.scales_begin:
        payload_Rp[:, blocks.code_bytes(blocks.length) : blocks.scales_begin] = 0
    values_Rn = values_Rn if values_Rn.stride(1) == 1 else values_Rn.contiguous()
    shape = _Shape(blocks)
    for some_Rn, payload_of_some in _launches(values_Rn, payload_Rp):
        _quantize[(shape.num_programs, len(some_Rn))](
            some_Rn,
            payload_of_some,
            _stride(some_Rn),
            _words(payload_of_some),
            blocks.scales_begin,
            blocks.length,
            BITS=blocks.bits,
            SIZE=blocks.block_size,
            HALF=shape.half,
            COUNT=shape.count,
            num_warps=shape.num_warps,
            enable_fp_fusion=False,
        )


def dequantize(payload_Rp: Tensor, values_Rn: Tensor, blocks: Blocks) -> None:
    """Write the values of payloads.

    Args:
        payload_Rp: uint8.
        values_Rn: Of any floating type; a row's values are neighbours.
        blocks: Their format.
    """
    shape = _Shape(blocks)
    for some_Rn, payload_of_some in _launches(values_Rn, payload_Rp):
        _dequantize[(shape.num_programs, len(some_Rn))](
            some_Rn,
            payload_of_some,
            _stride(some_Rn),
            _words(payload_of_some),
            blocks.scales_begin,
            blocks.length,
            1,
            BITS=blocks.bits,
            SIZE=blocks.block_size,
            HALF=shape.half,
            COUNT=shape.count,
            SUMS=False,
            ADDS=False,
            num_warps=shape.num_warps,
            enable_fp_fusion=False,
        )


def dequantize_sum(payload_Rp: Tensor, out_n: Tensor, blocks: Blocks, *, accumulate: bool) -> None:
    """Write the sum of the values of payloads, added in float32 in the order of the rows.

    Args:
        payload_Rp: uint8.
        out_n: Of any floating type, contiguous.
        blocks: Their format.
        accumulate: Add to what is there.
    """
    shape = _Shape(blocks)
    _dequantize[(shape.num_programs, 1)](
        out_n,
        payload_Rp,
        0,
        _words(payload_Rp),
        blocks.scales_begin,
        blocks.length,
        len(payload_Rp),
        BITS=blocks.bits,
        SIZE=blocks.block_size,
        HALF=shape.half,
        COUNT=shape.count,
        SUMS=True,
        ADDS=accumulate,
        num_warps=shape.num_warps,
        enable_fp_fusion=False,
    )


class _Shape:
    """How a row is cut into programs.

    Attributes:
        half: Least power of two that holds half a block.
        count: Blocks of a program, a power of two.
        num_programs: Of a row.
        num_warps: Of a program.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.half = triton.next_power_of_2(-(-blocks.block_size // 2))
        self.count = max(1, _VALUES_OF_A_PROGRAM // (2 * self.half))
        self.num_programs = triton.cdiv(blocks.num_blocks, self.count)
        self.num_warps = min(16, max(1, 2 * self.count * self.half // _VALUES_OF_A_WARP))


def _launches(values_Rn: Tensor, payload_Rp: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the rows of each launch: a grid has 65535 at most. Views take time: usually none."""
    if len(values_Rn) <= _MOST_ROWS:
        return [(values_Rn, payload_Rp)]
    return list(
        zip(torch.split(values_Rn, _MOST_ROWS), torch.split(payload_Rp, _MOST_ROWS), strict=True)
    )


def _stride(rows: Tensor) -> int:
    """Return the elements from row to row; 0 of a single one, which is a multiple of anything."""
    return rows.stride(0) if len(rows) > 1 else 0


def _words(payload_Rp: Tensor) -> int:
    """Return how far payloads lie apart: in words, so that a thread may read a whole one.

    Raises:
        ValueError: They begin between words.
    """
    words, rest = divmod(_stride(payload_Rp), SCALE_BYTES)
    if rest:
        raise ValueError(f"payloads lie {payload_Rp.stride(0)} bytes apart; use a multiple of 4")
    return words


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    payload: tl.tensor,
    values_stride: tl.tensor,
    payload_words: tl.tensor,
    scales_begin: tl.tensor,
    length: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * COUNT
    values += row * values_stride + first * SIZE
    payload += row * payload_words * _SCALE_BYTES
    codes = payload.to(_CODES, bitcast=True) + first * (SIZE // (8 // BITS))
    scales = (payload + scales_begin).to(_SCALES, bitcast=True) + first
    left = length - first * SIZE
    if left >= COUNT * SIZE:
        _quantize_blocks(values, codes, scales, left, BITS, SIZE, HALF, COUNT, IS_WHOLE=True)
    else:
        _quantize_blocks(values, codes, scales, left, BITS, SIZE, HALF, COUNT, IS_WHOLE=False)


@triton.jit
def _quantize_blocks(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    left: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    block, low, half, has_block, has_low, has_high = _halves(left, SIZE, HALF, COUNT, IS_WHOLE)
    low_x = tl.load(values + low, mask=has_low, other=0.0).to(tl.float32)
    high_x = tl.load(values + low + half, mask=has_high, other=0.0).to(tl.float32)

    # Magnitudes are ordered as their bits are, and a NaN is above all of them.
    low_bits = low_x.to(tl.int32, bitcast=True) & _MAGNITUDE_BITS
    high_bits = high_x.to(tl.int32, bitcast=True) & _MAGNITUDE_BITS
    largest_bits = tl.max(tl.maximum(low_bits, high_bits), axis=1)[:, None]
    is_finite = largest_bits < _INFINITY_BITS
    absmax = tl.where(is_finite, largest_bits, 0).to(tl.float32, bitcast=True)
    scale = tl.maximum(absmax * (1 / (127 if BITS == 8 else 7)), _LEAST_SCALE)
    inverse = tl.math.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
    low_q = tl.where(is_finite, (low_x * inverse + _ROUNDER).to(tl.int32, bitcast=True), 0)
    high_q = tl.where(is_finite, (high_x * inverse + _ROUNDER).to(tl.int32, bitcast=True), 0)
    tl.store(scales + block, tl.where(is_finite, scale, float("nan")), mask=has_block)
    if BITS == 8:
        tl.store(codes + low, low_q.to(tl.int8), mask=has_low)
        tl.store(codes + low + half, high_q.to(tl.int8), mask=has_high)
    else:
        pair = (low_q + 16 * high_q).to(tl.int8)
        tl.store(codes + low - block * (SIZE - SIZE // 2), pair, mask=has_low)


@triton.jit
def _dequantize(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    payload: tl.tensor,
    values_stride: tl.tensor,
    payload_words: tl.tensor,
    scales_begin: tl.tensor,
    length: tl.tensor,
    num_rows: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
    SUMS: tl.constexpr,
    ADDS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * COUNT
    values += row * values_stride + first * SIZE
    payload += row * payload_words * _SCALE_BYTES
    codes = payload.to(_CODES, bitcast=True) + first * (SIZE // (8 // BITS))
    scales = (payload + scales_begin).to(_SCALES, bitcast=True) + first
    left = length - first * SIZE
    if left >= COUNT * SIZE:
        _dequantize_blocks(
            values, codes, scales, payload_words, left, num_rows,
            BITS, SIZE, HALF, COUNT, SUMS, ADDS, IS_WHOLE=True,
        )  # fmt: skip
    else:
        _dequantize_blocks(
            values, codes, scales, payload_words, left, num_rows,
            BITS, SIZE, HALF, COUNT, SUMS, ADDS, IS_WHOLE=False,
        )  # fmt: skip


@triton.jit
def _dequantize_blocks(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    payload_words: tl.tensor,
    left: tl.tensor,
    num_rows: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
    SUMS: tl.constexpr,
    ADDS: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    block, low, half, has_block, has_low, has_high = _halves(left, SIZE, HALF, COUNT, IS_WHOLE)
    low_x, high_x = _decoded(
        codes, scales, block, low, half, has_block, has_low, has_high, BITS, SIZE
    )
    if SUMS:
        for _ in range(1, num_rows):
            codes += payload_words.to(tl.int64) * _SCALE_BYTES
            scales += payload_words
            low_more, high_more = _decoded(
                codes, scales, block, low, half, has_block, has_low, has_high, BITS, SIZE
            )
            low_x += low_more
            high_x += high_more
    if ADDS:
        # The sum is in the wider type of the two, as torch's.
        low_x += tl.load(values + low, mask=has_low, other=0.0)
        high_x += tl.load(values + low + half, mask=has_high, other=0.0)
    tl.store(values + low, low_x.to(values.dtype.element_ty), mask=has_low)
    tl.store(values + low + half, high_x.to(values.dtype.element_ty), mask=has_high)


@triton.jit
def _decoded(  # type: ignore[no-untyped-def]  # noqa: ANN202
    codes: tl.tensor,
    scales: tl.tensor,
    block: tl.tensor,
    low: tl.tensor,
    half: tl.tensor,
    has_block: tl.tensor,
    has_low: tl.tensor,
    has_high: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Return the low and the high values of one row's blocks."""
    scale = tl.load(scales + block, mask=has_block, other=0.0)
    if BITS == 8:
        low_q = tl.load(codes + low, mask=has_low, other=0).to(tl.int32)
        high_q = tl.load(codes + low + half, mask=has_high, other=0).to(tl.int32)
    else:
        place = low - block * (SIZE - SIZE // 2)
        pair = tl.load(codes + place, mask=has_low, other=0).to(tl.int32)
        high_q = (pair + 8) >> 4
        low_q = pair - 16 * high_q
    return low_q.to(tl.float32) * scale, high_q.to(tl.float32) * scale


@triton.jit
def _halves(  # type: ignore[no-untyped-def]  # noqa: ANN202
    left: tl.tensor,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):
    """Return a program's blocks, where their low values lie, how far the high ones from them.

    And the masks: which blocks there are, and which values.
    """
    block = tl.arange(0, COUNT)[:, None]
    column = tl.arange(0, HALF)[None, :]
    if IS_WHOLE:
        size = tl.full((1, 1), SIZE, tl.int32)
    else:
        left_here = tl.minimum(left, COUNT * SIZE).to(tl.int32)
        size = tl.minimum(tl.maximum(left_here - block * SIZE, 0), SIZE)
    half = (size + 1) // 2
    return block, block * SIZE + column, half, size > 0, column < half, column < size - half
