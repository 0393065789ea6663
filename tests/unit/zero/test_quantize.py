"""The quantizer beside a slow one in plain Python, and what it promises."""

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.zero.blocks import Blocks
from tasks.zero.quantize import (
    dequantize,
    dequantize_sum,
    payload_bytes,
    quantize,
    smoothed,
)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Format(TypedDict):
    """What all functions take."""

    bits: int
    block_size: int


class SmoothFormat(Format):
    """What all functions but ``payload_bytes`` take."""

    hadamard: bool


@dataclass(frozen=True)
class Case:
    """A format, and how the values are drawn."""

    length: int
    bits: int
    block_size: int
    dtype: torch.dtype
    log10_magnitude: int
    seed: int

    @property
    def format(self) -> Format:
        """Bits and block size."""
        return {"bits": self.bits, "block_size": self.block_size}

    def values(self, *shape: int) -> Tensor:
        """Draw values of very different sizes, some of them 0."""
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.randn(*shape, self.length, generator=generator, dtype=torch.float64)
        values *= 10.0 ** torch.randint(-2, 3, values.shape, generator=generator)
        values *= torch.rand(values.shape, generator=generator) < 0.9
        # Float16 ends at 65504, the others at 1e38 or beyond.
        narrow = (-4, 2) if self.dtype == torch.float16 else (-46, 34)
        log10 = min(max(self.log10_magnitude, narrow[0]), narrow[1])
        return (values * 10.0**log10).to(self.dtype)


CASES = st.builds(
    Case,
    length=st.one_of(st.integers(1, 40), st.integers(1, 700)),
    bits=st.sampled_from([4, 8]),
    block_size=st.sampled_from([2, 8, 32, 50, 256]),
    dtype=st.sampled_from(DTYPES),
    log10_magnitude=st.integers(-46, 34),
    seed=st.integers(0, 10_000),
)


def reference(values: Tensor, bits: int, block_size: int) -> tuple[bytes, list[float]]:
    """Return payload and values of one row, block by block, number by number."""
    m, f32 = (127 if bits == 8 else 7), np.float32
    packed, scales, decoded = bytearray(), bytearray(), []
    row = [f32(x) for x in values.double().tolist()]
    for begin in range(0, len(row), block_size):
        block = row[begin : begin + block_size]
        scale = max(max(abs(x) for x in block) * f32(1 / m), f32(2.0**-125))
        codes = [int(np.rint(x * (f32(1) / scale))) for x in block]
        decoded += [float(f32(q) * scale) for q in codes]
        scales += f32(scale).tobytes()
        if bits == 4:
            half = (len(codes) + 1) // 2
            highs = codes[half:] + [0] * (2 * half - len(codes))
            codes = [low + 16 * high for low, high in zip(codes[:half], highs, strict=True)]
        packed += b"".join(q.to_bytes(1, "little", signed=True) for q in codes)
    packed += bytes(-len(packed) % 4)
    return bytes(packed + scales), decoded


@settings(max_examples=100, deadline=None)
@given(case=CASES)
def test_payload_and_values_are_those_of_the_reference(case: Case) -> None:
    """Bit for bit, whatever the length, type, block size and magnitude."""
    values = case.values()
    payload, decoded = reference(values, **case.format)

    ours = quantize(values, **case.format)
    back = dequantize(ours, length=case.length, dtype=torch.float64, **case.format)

    assert ours.numpy().tobytes() == payload
    assert back.tolist() == decoded
    assert len(payload) == payload_bytes(case.length, **case.format)


@settings(max_examples=60, deadline=None)
@given(case=CASES)
def test_errors_stay_under_half_a_step(case: Case) -> None:
    """|x' - x| <= (1/2 + 2^-15) scale: the bound that the module proves; zeros stay zeros."""
    values = case.values()
    blocks = Blocks(case.length, case.bits, case.block_size)

    payload = quantize(values, **case.format)
    back = dequantize(payload, length=case.length, dtype=torch.float64, **case.format)

    scales = blocks.scales(payload[None])[0].double().repeat_interleave(case.block_size)
    error = (back - values.double()).abs()
    assert bool((error <= (0.5 + 2**-15) * scales[: case.length]).all())
    assert bool((back[values == 0] == 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_both_ends_of_a_block_keep_their_value(bits: int, dtype: torch.dtype) -> None:
    """+absmax and -absmax come back, to 2^-22 in float32 and exactly in shorter types."""
    values = torch.tensor([0.3, 1.7, -1.7, 0.0, 0.02, 5.3, 0.1, -5.3], dtype=dtype)

    payload = quantize(values, bits=bits, block_size=4)
    back = dequantize(payload, length=8, bits=bits, block_size=4, dtype=dtype)

    ends = [1, 2, 5, 7]
    relative = 0.0 if dtype in {torch.float16, torch.bfloat16} else 2.0**-22
    assert torch.allclose(back[ends], values[ends], rtol=relative, atol=0)


@settings(max_examples=50, deadline=None)
@given(case=CASES, num_rows=st.integers(1, 5))
def test_rows_do_not_know_of_each_other(case: Case, num_rows: int) -> None:
    """The payload of many rows, of any layout in memory, is the payloads of each."""
    values = case.values(num_rows, 2)
    strided = values.transpose(0, 1)

    payload = quantize(values, **case.format)
    of_strided = quantize(strided, **case.format)

    for row in range(num_rows):
        for column in range(2):
            alone = quantize(values[row, column].clone(), **case.format)
            assert torch.equal(payload[row, column], alone)
            assert torch.equal(of_strided[column, row], alone)


def test_long_rows_are_cut_without_a_seam() -> None:
    """Rows of many tiles, with a short last block, are those of the reference's blocks."""
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(3, 300_001, generator=generator)

    payload = quantize(values, bits=4, block_size=64)
    back = dequantize(payload, length=300_001, bits=4, block_size=64)
    total = dequantize_sum(payload, length=300_001, bits=4, block_size=64)

    for begin in (0, 131_008, 131_072, 262_144, 299_968):
        piece = values[:, begin : begin + 64].contiguous()
        alone = quantize(piece, bits=4, block_size=64)
        expected = dequantize(alone, length=piece.shape[1], bits=4, block_size=64)
        assert torch.equal(back[:, begin : begin + 64], expected)
    assert torch.equal(total, back[0] + back[1] + back[2])


@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_not_finite_stays_visible(bad: float, bits: int, *, hadamard: bool) -> None:
    """A NaN, an infinity, a float64 beyond float32: the whole block is NaN, and no other one."""
    values = torch.ones(3, 100, dtype=torch.float64)
    values[1, 40] = bad
    options: SmoothFormat = {"bits": bits, "block_size": 32, "hadamard": hadamard}

    payload = quantize(values, **options)
    back = dequantize(payload, length=100, **options)
    total = dequantize_sum(payload, length=100, **options)

    is_bad = torch.zeros(3, 100, dtype=torch.bool)
    is_bad[1, 32:64] = True
    assert torch.equal(back.isnan(), is_bad)
    assert bool(back[~is_bad].isfinite().all())
    assert torch.equal(total.isnan(), is_bad.any(0))


def test_the_smallest_numbers_do_not_overflow_the_inverse() -> None:
    """Blocks of subnormal numbers, and of the least normal ones, lose 2^-126 at most."""
    values = torch.tensor([1e-45, -3e-42, 1e-39, -1.2e-38, 2.0**-125, 2.0**-127, 0.0, 9e-38])

    back = dequantize(quantize(values, bits=8, block_size=2), length=8, bits=8, block_size=2)

    assert bool(back.isfinite().all())
    assert float((back.double() - values.double()).abs().max()) <= 2.0**-126 * (1 + 2**-14)
    assert float(back[4]) == 2.0**-125


@settings(max_examples=50, deadline=None)
@given(case=CASES, num_rows=st.integers(1, 6), dtype=st.sampled_from(DTYPES))
def test_a_sum_is_that_of_the_rows_in_order(case: Case, num_rows: int, dtype: torch.dtype) -> None:
    """Bit for bit a float32 sum, row after row; it can be added to what is there."""
    values = case.values(num_rows)
    payload = quantize(values, **case.format)
    rows = dequantize(payload, length=case.length, **case.format)
    expected = rows[0].clone()
    for row in rows[1:]:
        expected += row
    before = torch.full((case.length,), 0.5, dtype=dtype)

    total = dequantize_sum(payload, length=case.length, dtype=dtype, **case.format)
    added = dequantize_sum(
        payload,
        length=case.length,
        dtype=dtype,
        out=before.clone(),
        accumulate=True,
        **case.format,
    )

    assert torch.equal(total, expected.to(dtype))
    assert torch.equal(added, before.add_(expected))


def test_smoothing_is_its_own_inverse_and_spreads_one_large_value() -> None:
    """Twice smoothed is as before; one value of 64 becomes 64 of an eighth; lengths keep blocks."""
    values = torch.zeros(2, 300)
    values[0, 70], values[1, 299] = 8.0, 2.0

    once = smoothed(values, block_size=128)

    # The last block has 44 values: 11 sub-blocks of 4.
    assert once[0].abs().tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 172
    assert once[1].abs().tolist() == [0.0] * 296 + [1.0] * 4
    assert torch.equal(smoothed(once, block_size=128), values)


def test_smoothing_makes_an_outlier_cheap() -> None:
    """With one large value among small ones, INT4 keeps the small ones only if it smooths."""
    values = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)) / 10
    values[:, 17] = 8.0
    errors = {}
    for hadamard in (False, True):
        options: SmoothFormat = {"bits": 4, "block_size": 256, "hadamard": hadamard}

        payload = quantize(values, **options)
        back = dequantize(payload, length=256, **options)
        total = dequantize_sum(payload, length=256, **options)

        errors[hadamard] = float((back - values).square().mean().sqrt())
        # One inverse of the sum, or a sum of inverses: float32 round-off of values up to 40.
        assert torch.allclose(total, back.sum(0), atol=1e-4)
    assert errors[True] < 0.6 * errors[False]


def test_out_takes_the_result_in_place() -> None:
    """Slices of larger buffers can be written to, and nothing beside them is touched."""
    values = torch.randn(2, 37)
    num_bytes = payload_bytes(37, bits=8, block_size=8)
    buffer = torch.full((2, num_bytes + 8), 77, dtype=torch.uint8)
    decoded = torch.full((2, 40), 9.0)

    quantize(values, bits=8, block_size=8, out=buffer[:, 4:-4])
    dequantize(buffer[:, 4:-4], length=37, bits=8, block_size=8, out=decoded[:, :37])

    payload = quantize(values, bits=8, block_size=8)
    assert torch.equal(buffer[:, 4:-4], payload)
    assert torch.equal(decoded[:, :37], dequantize(payload, length=37, bits=8, block_size=8))
    assert bool((buffer[:, :4] == 77).all() and (buffer[:, -4:] == 77).all())
    assert bool((decoded[:, 37:] == 9).all())


def test_nothing_is_as_good_as_something() -> None:
    """Rows of no values, and no rows, give empty results; a sum of no rows is zero."""
    assert quantize(torch.ones(3, 0), bits=4, block_size=8).shape == (3, 0)
    assert quantize(torch.ones(0, 9), bits=8, block_size=8).shape == (0, 20)
    empty = torch.empty(0, 20, dtype=torch.uint8)
    assert dequantize(empty, length=9, bits=8, block_size=8).shape == (0, 9)
    assert dequantize_sum(empty, length=9, bits=8, block_size=8).tolist() == [0.0] * 9


def test_no_gradient_passes() -> None:
    """Parameters can be quantized as they are."""
    weights = torch.ones(8, requires_grad=True)

    payload = quantize(weights, bits=8, block_size=8)

    assert not dequantize(payload, length=8, bits=8, block_size=8).requires_grad


def test_wrong_formats_are_told() -> None:
    """The messages say what was found and what would do."""
    with pytest.raises(ValueError, match="5 bits; use 8 or 4"):
        payload_bytes(8, bits=5, block_size=8)
    with pytest.raises(ValueError, match="4-bit blocks of 7 values; use an even number"):
        payload_bytes(8, bits=4, block_size=7)
    with pytest.raises(ValueError, match=r"torch.int64; use a floating type"):
        quantize(torch.arange(8), bits=8, block_size=8)
    with pytest.raises(ValueError, match=r"out is \(3,\).*use \(12,\), torch.uint8"):
        quantize(torch.ones(8), bits=8, block_size=8, out=torch.empty(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"9 values in 8-bit blocks of 8 take 20 x uint8"):
        dequantize(torch.empty(12, dtype=torch.uint8), length=9, bits=8, block_size=8)
    with pytest.raises(ValueError, match="accumulate without out"):
        dequantize_sum(
            torch.empty(1, 12, dtype=torch.uint8),
            length=8,
            bits=8,
            block_size=8,
            accumulate=True,
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [2, 50, 64, 256, 2048, 16_384])
def test_a_gpu_gives_the_same_bits(bits: int, block_size: int, dtype: torch.dtype) -> None:
    """Payloads, values and sums, over lengths and magnitudes; a NaN is a NaN."""
    for length in (1, 2, 3, 63, 64, 257, 5000, 70_001):
        for log10_magnitude in (-44, -37, 0, 30):
            case = Case(length, bits, block_size, dtype, log10_magnitude, length)
            values = case.values(3)
            values[1, length // 2] = math.nan
            payload = quantize(values, **case.format)

            on_gpu = quantize(values.cuda(), **case.format)

            assert torch.equal(on_gpu.cpu(), payload)
            back = dequantize(on_gpu, length=length, dtype=dtype, **case.format)
            expected = dequantize(payload, length=length, dtype=dtype, **case.format)
            assert_same(back, expected)
            before = torch.full((length,), 0.5, dtype=dtype)
            for adds in (False, True):
                sums = [
                    dequantize_sum(
                        rows,
                        length=length,
                        dtype=dtype,
                        out=before.to(rows.device, copy=True),
                        accumulate=adds,
                        **case.format,
                    )
                    for rows in (on_gpu, payload)
                ]
                assert_same(*sums)


def assert_same(ours: Tensor, expected: Tensor) -> None:
    """All bits are the same, up to those of a NaN."""
    torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=0, equal_nan=True)
