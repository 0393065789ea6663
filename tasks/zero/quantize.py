"""Block-wise symmetric INT8 and INT4 numbers for the wire: plain torch, and Triton on CUDA.

Of each block, in float32, with m = 127 (INT8) or 7 (INT4) and the constant 1 / m::

    scale = max(absmax * (1 / m), 2^-125)
    q     = round half to even(x * (1 / scale))
    x'    = q * scale

Each operation rounds to nearest, once, so that all devices give the same bits. As
``absmax / scale`` is m to within round-off, ``|q| <= m`` needs no clamp, and +-absmax keep their
value up to a factor of 1 +- 2^-22. (DeepSpeed's kernels put 2^(bits - 1) steps to absmax and clamp:
there the largest value of a block loses a whole step, in INT4 an eighth of itself.)

Error bound: ``|x' - x| <= (1/2 + 2^-15) scale``. For ``|x|`` is at most m steps, up to a factor of
1 + 2 u, u = 2^-24: float64 to float32 costs m u steps, ``1 / scale`` and the product m u each, the
rounding to q half a step, ``q * scale`` m u; and 4 * 127 u = 508 u < 2^-15 = 512 u. The conversion
of x' to a shorter type comes on top of it.

The floor of the scale is twice the least normal number: its inverse is finite, and subnormal values
become 0, whether or not a device flushes them. A block with a NaN or an infinity, or a float64
beyond float32, has the scale NaN and codes 0: all of it is NaN afterwards.

Smoothing multiplies sub-blocks of up to 64 values by an orthonormal Walsh-Hadamard matrix before
quantization, which spreads a large value over its sub-block (SDP4Bit, arXiv 2410.15526). It is its
own inverse, and a sum of rows needs one inverse only. It is a matrix product: the order of its
sums, and so its last bits, are the device's.

Letters as in ``blocks``.
"""

import functools
import importlib.util
import math

import torch
from torch import Tensor

from tasks.zero.blocks import Blocks, tiles

LEAST_SCALE = 2.0**-125
_MOST_SMOOTHED = 64
_TILE_VALUES = 131_072
"""Values that one thread works on at a time: large beside the calls, small beside the caches."""


def payload_bytes(length: int, *, bits: int, block_size: int) -> int:
    """Return the size of the payload of one row.

    Args:
        length: n, values of the row.
        bits: 8 or 4.
        block_size: Values that share a scale; even for 4 bits.

    Returns:
        Bytes, a multiple of 4.
    """
    return Blocks(length, bits, block_size).payload_bytes


def quantize(
    values: Tensor,
    *,
    bits: int,
    block_size: int,
    hadamard: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Pack rows of values, each for itself.

    Args:
        values: Shape (..., n), of any floating type.
        bits: 8 or 4.
        block_size: Values that share a scale; even for 4 bits.
        hadamard: Smooth them before.
        out: Where to write the payloads.

    Returns:
        The payloads, shape (..., ``payload_bytes(n)``), uint8.

    Raises:
        ValueError: The values are no floating numbers, or ``out`` has another shape or type.
    """
    blocks = Blocks(values.shape[-1], bits, block_size)
    if not values.is_floating_point():
        raise ValueError(f"values are {values.dtype}; use a floating type")
    shape = (*values.shape[:-1], blocks.payload_bytes)
    out = _prepared(out, shape, torch.uint8, values.device)
    if not out.numel():
        return out
    plain = smoothed(values.detach(), block_size=block_size) if hadamard else values.detach()
    values_Rn = plain.reshape(-1, blocks.length)
    payload_Rp = out.view(-1, blocks.payload_bytes)
    if _is_for_kernels(values.device, blocks):
        from tasks.zero import triton_kernels  # noqa: PLC0415  imports triton

        triton_kernels.quantize(values_Rn, payload_Rp, blocks)
        return out
    if blocks.code_bytes(blocks.length) < blocks.scales_begin:
        payload_Rp[:, blocks.code_bytes(blocks.length) : blocks.scales_begin] = 0
    scratch = _Scratch(values.device)
    for source, codes, scales in tiles(values_Rn, payload_Rp, blocks, scratch.size):
        if source.dtype != torch.float32:
            source = scratch.take(source.shape, "source").copy_(source)  # noqa: PLW2901
        _quantize_tile(source, codes, scales, blocks, scratch)
    if not math.isfinite(blocks.scales(payload_Rp).max()):  # rare, so that others need not pay
        _void_bad_blocks(values_Rn, payload_Rp, blocks)
    return out


def dequantize(
    payload: Tensor,
    *,
    length: int,
    bits: int,
    block_size: int,
    dtype: torch.dtype = torch.float32,
    hadamard: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return the values of payloads.

    Args:
        payload: Shape (..., ``payload_bytes(length)``), uint8; its rows begin at multiples of 4
            bytes.
        length: n, values of a row.
        bits: 8 or 4.
        block_size: Values that share a scale.
        dtype: Of the values.
        hadamard: They were smoothed.
        out: Where to write the values.

    Returns:
        Shape (..., n).

    Raises:
        ValueError: The payload has another size, or ``out`` another shape or type.
    """
    blocks = Blocks(length, bits, block_size)
    payload_Rp = _rows(payload, blocks)
    out = _prepared(out, (*payload.shape[:-1], length), dtype, payload.device)
    if not out.numel():
        return out
    if hadamard:
        plain = dequantize(payload, length=length, bits=bits, block_size=block_size)
        return out.copy_(smoothed(plain, block_size=block_size))
    values_Rn = out.view(-1, length)
    if _is_for_kernels(payload.device, blocks):
        from tasks.zero import triton_kernels  # noqa: PLC0415  imports triton

        triton_kernels.dequantize(payload_Rp, values_Rn, blocks)
        return out
    scratch = _Scratch(payload.device)
    for target, codes, scales in tiles(values_Rn, payload_Rp, blocks, scratch.size):
        torch.mul(_decoded(codes, target.shape, scratch), scales, out=target)
    return out


def dequantize_sum(
    payload_rows: Tensor,
    *,
    length: int,
    bits: int,
    block_size: int,
    dtype: torch.dtype = torch.float32,
    hadamard: bool = False,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Return the sum of the values of some payloads, added one after the other in float32.

    Args:
        payload_rows: Shape (k, ``payload_bytes(length)``), uint8; the first row comes first.
        length: n, values of a row.
        bits: 8 or 4.
        block_size: Values that share a scale.
        dtype: Of the result.
        hadamard: The values were smoothed; the sum is turned back, once.
        out: Where to write the sum.
        accumulate: Add it to what is in ``out``.

    Returns:
        Shape (n,).

    Raises:
        ValueError: A payload has another size, ``out`` another shape or type, or there is nothing
            to add to.
    """
    blocks = Blocks(length, bits, block_size)
    payload_Rp = _rows(payload_rows, blocks)
    if accumulate and out is None:
        raise ValueError("accumulate without out; give the tensor to add to")
    out = _prepared(out, (length,), dtype, payload_rows.device)
    if not length or not len(payload_Rp):
        return out if accumulate else out.zero_()
    if hadamard:
        plain = dequantize_sum(payload_rows, length=length, bits=bits, block_size=block_size)
        total = smoothed(plain, block_size=block_size)
        return out.add_(total) if accumulate else out.copy_(total)
    if _is_for_kernels(payload_rows.device, blocks):
        from tasks.zero import triton_kernels  # noqa: PLC0415  imports triton

        triton_kernels.dequantize_sum(payload_Rp, out, blocks, accumulate=accumulate)
        return out
    scratch = _Scratch(payload_rows.device)
    is_direct = dtype == torch.float32 and not accumulate
    rows = (tiles(out[None], row_1p, blocks, scratch.size) for row_1p in torch.split(payload_Rp, 1))
    for same_tile in zip(*rows, strict=True):
        target = same_tile[0][0]
        total = target if is_direct else scratch.take(target.shape, "total")
        for row, (_, codes, scales) in enumerate(same_tile):
            work = _decoded(codes, target.shape, scratch)
            if row == 0:
                torch.mul(work, scales, out=total)
            else:
                total.add_(work.mul_(scales))
        if accumulate:
            target.add_(total)
        elif not is_direct:
            target.copy_(total)
    return out


class _Scratch:
    """Memory for one tile at a time, by name; made when first needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.size = _TILE_VALUES * torch.get_num_threads() if device.type == "cpu" else 2**62
        self._buffers: dict[str, Tensor] = {}

    def take(self, shape: torch.Size, name: str) -> Tensor:
        """Return a float32 tensor of this shape; what was taken by this name before is lost."""
        buffer, size = self._buffers.get(name), shape.numel()
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=torch.float32, device=self._device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)


def _quantize_tile(
    source: Tensor, codes: Tensor, scales: Tensor, blocks: Blocks, scratch: _Scratch
) -> None:
    """Write codes and scales of float32 values; where they are not finite, codes are anything."""
    work = scratch.take(source.shape, "work")
    torch.amax(torch.abs(source, out=work), -1, keepdim=True, out=scales)
    scales.mul_(1 / blocks.largest).clamp_(min=LEAST_SCALE)
    torch.mul(source, scales.reciprocal(), out=work).round_()  # half to even
    if blocks.bits == 8:
        codes.copy_(work)
        return
    half = codes.shape[-1]
    low, high = work[..., :half], work[..., half:]
    low[..., : high.shape[-1]].add_(high, alpha=16)
    codes.copy_(low)


def _void_bad_blocks(values_Rn: Tensor, payload_Rp: Tensor, blocks: Blocks) -> None:
    """Make the scale NaN and the codes 0 where the scale is not finite."""
    for _, codes, scales in tiles(values_Rn, payload_Rp, blocks, 2**62):
        is_bad = scales.isfinite().logical_not_()
        codes.masked_fill_(is_bad, 0)
        scales.masked_fill_(is_bad, math.nan)


def _decoded(codes: Tensor, shape: torch.Size, scratch: _Scratch) -> Tensor:
    """Return the q of a tile, as float32, in scratch memory."""
    work, half = scratch.take(shape, "work"), codes.shape[-1]
    if half == shape[-1]:  # INT8, or a single INT4 value, which is its own byte
        return work.copy_(codes)
    pairs, num_high = scratch.take(codes.shape, "pairs").copy_(codes), shape[-1] - half
    high = work[..., half:]
    torch.mul(pairs[..., :num_high], 1 / 16, out=high).round_()  # low parts are within 7 / 16
    torch.add(pairs[..., :num_high], high, alpha=-16, out=work[..., :num_high])
    if num_high < half:
        work[..., num_high] = pairs[..., num_high]
    return work


def smoothed(values: Tensor, *, block_size: int) -> Tensor:
    """Return rows times the Walsh-Hadamard matrix, sub-block by sub-block; its own inverse.

    Args:
        values: Shape (..., n), of any floating type.
        block_size: Sub-blocks have the largest power of two that divides it, 64 at most; those of
            a last short block likewise.

    Returns:
        Shape (..., n), float32.
    """
    rest = values.shape[-1] % block_size
    whole_and_rest = torch.split(values.float(), [values.shape[-1] - rest, rest], -1)
    parts = []
    for part, size in zip(whole_and_rest, (block_size, rest), strict=True):
        matrix = _walsh_hadamard(math.gcd(size, _MOST_SMOOTHED), values.device)
        parts.append((part.reshape(-1, len(matrix)) @ matrix).view(part.shape))
    return torch.cat(parts, -1) if rest else parts[0]


@functools.lru_cache
def _walsh_hadamard(size: int, device: torch.device) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix / math.sqrt(size)).to(device, torch.float32)


def _is_for_kernels(device: torch.device, blocks: Blocks) -> bool:
    """Whether the kernels do it: of an odd number of values they lost one, see ``docs/results.md``.

    What the engine quantizes is whole blocks: shards, and the pieces that replicas sum.
    """
    is_even = blocks.length % 2 == 0 and blocks.block_size % 2 == 0
    return is_even and _has_kernels(device)


@functools.lru_cache
def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def _prepared(
    out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device)
    if out.shape != shape or out.dtype != dtype:
        found, allowed = f"{tuple(out.shape)}, {out.dtype}", f"{tuple(shape)}, {dtype}"
        raise ValueError(f"out is {found}; use {allowed}")
    return out.detach()


def _rows(payload: Tensor, blocks: Blocks) -> Tensor:
    if payload.shape[-1] != blocks.payload_bytes or payload.dtype != torch.uint8:
        raise ValueError(
            f"payload of {payload.shape[-1]} x {payload.dtype}; {blocks.length} values in "
            f"{blocks.bits}-bit blocks of {blocks.block_size} take {blocks.payload_bytes} x uint8"
        )
    return payload.reshape(-1, blocks.payload_bytes)
