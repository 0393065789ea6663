"""The quantizer on one core beside a copy of the same values, in the same run."""

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from tasks.zero.quantize import dequantize, dequantize_sum, quantize

ALL_CORES = torch.get_num_threads()
_NUM_VALUES, _NUM_ROWS, _BLOCK_SIZE = 2**22, 4, 256


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the ranks of a CPU test have it."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ALL_CORES)


def _median_s(work: Callable[[], object]) -> float:
    """Return CPU seconds: another process on the core does not count."""
    work()
    times_s = []
    for _ in range(11):
        began = time.thread_time()
        work()
        times_s.append(time.thread_time() - began)
    return statistics.median(times_s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("bits", "most_copies"), [(8, (6, 4, 4)), (4, (7, 6, 6))])
def test_beside_a_copy(
    benchmark: BenchmarkFixture,
    report: Callable[[str], None],
    bits: int,
    most_copies: tuple[int, int, int],
    dtype: torch.dtype,
) -> None:
    """Packing, unpacking and a row of a sum take a few copies of float32 values at most.

    Each is a handful of passes over memory in a cache; a copy is one, over memory that is not.
    """
    values = torch.randn(_NUM_VALUES).to(dtype)
    decoded, total = torch.empty_like(values), torch.empty(_NUM_VALUES)
    payload = quantize(values, bits=bits, block_size=_BLOCK_SIZE)
    rows = payload.repeat(_NUM_ROWS, 1)
    source, target = torch.randn(_NUM_VALUES), torch.empty(_NUM_VALUES)

    def pack() -> None:
        quantize(values, bits=bits, block_size=_BLOCK_SIZE, out=payload)

    def unpack() -> None:
        dequantize(
            payload,
            length=_NUM_VALUES,
            bits=bits,
            block_size=_BLOCK_SIZE,
            dtype=dtype,
            out=decoded,
        )

    def add_up() -> None:
        dequantize_sum(rows, length=_NUM_VALUES, bits=bits, block_size=_BLOCK_SIZE, out=total)

    copy_s = _median_s(lambda: target.copy_(source))
    packing_s, unpacking_s, row_s = (
        _median_s(pack),
        _median_s(unpack),
        _median_s(add_up) / _NUM_ROWS,
    )
    benchmark.pedantic(pack, rounds=3)  # type: ignore[no-untyped-call]  # the plugin's

    copies = [seconds / copy_s for seconds in (packing_s, unpacking_s, row_s)]
    copied = 2 * source.nbytes / copy_s / 1e9
    moved = (values.nbytes + payload.nbytes) / 1e9
    benchmark.extra_info |= {"copies": copies, "copy_gb_per_s": copied}
    report(
        f"INT{bits}, {dtype}: copy {copied:.1f} GB/s; pack {moved / packing_s:.1f} GB/s "
        f"({copies[0]:.1f} copies), unpack {moved / unpacking_s:.1f} GB/s ({copies[1]:.1f}), "
        f"a row of a sum {copies[2]:.1f} copies"
    )
    assert all(found < most for found, most in zip(copies, most_copies, strict=True))
