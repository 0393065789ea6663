"""The arithmetic of ``quantize`` for CUDA devices: one pass over memory each, the same bits.

One program takes some whole blocks of one row, as two tiles of half a block each ("low" and
"high", as INT4 codes pair them; with INT8 too, so that there is one code). The last block may be
short: its halves are then shorter, and masked.

Nothing may be rounded otherwise than in plain torch: divisions are rounded to nearest
(``div_rn``), and products are not fused with sums (``enable_fp_fusion=False``).

Letters as in ``blocks``. Only import this where there is a CUDA device: it needs triton.
"""

# mypy sees triton on some machines only.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, unused-ignore"

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from tasks.zero.blocks import Blocks

_VALUES_OF_A_PROGRAM = 4096
_INFINITY_BITS = tl.constexpr(0x7F800000)
_MAGNITUDE_BITS = tl.constexpr(0x7FFFFFFF)
_LEAST_SCALE = tl.constexpr(2.0**-125)


def quantize(values_Rn: Tensor, payload_Rp: Tensor, blocks: Blocks) -> None:
    """Write the payloads of rows.

    Args:
        values_Rn: Of any floating type.
        payload_Rp: uint8.
        blocks: Their format.
    """
    payload_Rp[:, blocks.code_bytes(blocks.length) : blocks.scales_begin] = 0
    codes_Rc, scales_Rb = blocks.codes(payload_Rp), blocks.scales(payload_Rp)
    values_Rn = values_Rn if values_Rn.stride(1) == 1 else values_Rn.contiguous()
    shape = _Shape(blocks)
    for first, rows in _launches(len(values_Rn)):
        _quantize[(shape.num_programs, rows)](
            values_Rn[first:],
            codes_Rc[first:],
            scales_Rb[first:],
            values_Rn.stride(0),
            codes_Rc.stride(0),
            scales_Rb.stride(0),
            blocks.length,
            blocks.num_blocks,
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
    codes_Rc, scales_Rb = blocks.codes(payload_Rp), blocks.scales(payload_Rp)
    shape = _Shape(blocks)
    for first, rows in _launches(len(values_Rn)):
        _dequantize[(shape.num_programs, rows)](
            values_Rn[first:],
            codes_Rc[first:],
            scales_Rb[first:],
            values_Rn.stride(0),
            codes_Rc.stride(0),
            scales_Rb.stride(0),
            blocks.length,
            blocks.num_blocks,
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
    codes_Rc, scales_Rb = blocks.codes(payload_Rp), blocks.scales(payload_Rp)
    shape = _Shape(blocks)
    _dequantize[(shape.num_programs, 1)](
        out_n,
        codes_Rc,
        scales_Rb,
        0,
        codes_Rc.stride(0),
        scales_Rb.stride(0),
        blocks.length,
        blocks.num_blocks,
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
        self.num_warps = min(16, max(4, self.count * self.half // 512))


def _launches(num_rows: int) -> list[tuple[int, int]]:
    """Return first row and number of rows of each launch; a grid has 65535 rows at most."""
    return [(first, min(65_535, num_rows - first)) for first in range(0, num_rows, 65_535)]


@triton.jit
def _halves(length: tl.tensor, SIZE: tl.constexpr, HALF: tl.constexpr, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Return this program's blocks (b, 1), where its low values lie in the row, and the masks."""
    block = tl.program_id(0).to(tl.int64) * COUNT + tl.arange(0, COUNT)[:, None]
    column = tl.arange(0, HALF)[None, :]
    size = tl.minimum(tl.maximum(length - block * SIZE, 0), SIZE)
    half = (size + 1) // 2
    low = block * SIZE + column
    return block, column, half, low, column < half, column < size - half


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    values_stride: tl.tensor,
    codes_stride: tl.tensor,
    scales_stride: tl.tensor,
    length: tl.tensor,
    num_blocks: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    values += row * values_stride
    codes += row * codes_stride
    scales += row * scales_stride
    block, column, half, low, has_low, has_high = _halves(length, SIZE, HALF, COUNT)
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
    inverse = tl.where(is_finite, inverse, 0.0)
    low_q = tl.where(is_finite, libdevice.rint(low_x * inverse), 0.0).to(tl.int32)
    high_q = tl.where(is_finite, libdevice.rint(high_x * inverse), 0.0).to(tl.int32)
    scale = tl.where(is_finite, scale, float("nan"))
    tl.store(scales + block, scale, mask=block < num_blocks)
    if BITS == 8:
        tl.store(codes + low, low_q.to(tl.int8), mask=has_low)
        tl.store(codes + low + half, high_q.to(tl.int8), mask=has_high)
    else:
        place = block * (SIZE // 2) + column
        tl.store(codes + place, (low_q + 16 * high_q).to(tl.int8), mask=has_low)


@triton.jit
def _dequantize(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    values_stride: tl.tensor,
    codes_stride: tl.tensor,
    scales_stride: tl.tensor,
    length: tl.tensor,
    num_blocks: tl.tensor,
    num_rows: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    COUNT: tl.constexpr,
    SUMS: tl.constexpr,
    ADDS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    values += row * values_stride
    codes += row * codes_stride
    scales += row * scales_stride
    block, column, half, low, has_low, has_high = _halves(length, SIZE, HALF, COUNT)
    low_x, high_x = _decoded(
        codes, scales, block, column, half, low, has_low, has_high, num_blocks, BITS, SIZE
    )
    if SUMS:
        for _ in range(1, num_rows):
            codes += codes_stride
            scales += scales_stride
            low_more, high_more = _decoded(
                codes, scales, block, column, half, low, has_low, has_high, num_blocks, BITS, SIZE
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
    column: tl.tensor,
    half: tl.tensor,
    low: tl.tensor,
    has_low: tl.tensor,
    has_high: tl.tensor,
    num_blocks: tl.tensor,
    BITS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Return the low and the high values of one row's blocks."""
    scale = tl.load(scales + block, mask=block < num_blocks, other=0.0)
    if BITS == 8:
        low_q = tl.load(codes + low, mask=has_low, other=0).to(tl.int32)
        high_q = tl.load(codes + low + half, mask=has_high, other=0).to(tl.int32)
    else:
        pair = tl.load(codes + block * (SIZE // 2) + column, mask=has_low, other=0).to(tl.int32)
        high_q = (pair + 8) >> 4
        low_q = pair - 16 * high_q
    return low_q.to(tl.float32) * scale, high_q.to(tl.float32) * scale
