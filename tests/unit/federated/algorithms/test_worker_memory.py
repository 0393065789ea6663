"""The memory of every worker's latest return: exact, without drift, no bigger than it is used."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.federated.algorithms.worker_memory import (
    empty_memory,
    latest,
    mean_of_all,
    mean_of_latest,
    newest_returns,
    remember,
    untouched_zeros,
)

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def exact_sum(rows: Tensor) -> Tensor:
    """Sum rows with a single rounding at the end."""
    columns = rows.double().T.tolist()
    return torch.tensor([math.fsum(column) for column in columns], dtype=torch.float64)


def most_roundoff(num_workers: int, largest: float, dtype: torch.dtype) -> float:
    """Bound the error of the sum, whatever came before the last two sweeps.

    A sum lives for two sweeps and takes part in at most 4M row operations in them (M rows swept,
    up to 2M replaced, each a difference and an addition), whose partial results are no larger than
    M times the largest row.
    """
    return 4 * num_workers * UNIT_ROUNDOFF[dtype] * num_workers * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_p12_running_sum_does_not_drift(dtype: torch.dtype) -> None:
    """P12: throughout 10,000 updates the running sum is the re-summed memory up to round-off."""
    num_workers, num_returns = 11, 3
    generator = torch.Generator().manual_seed(1)
    memory = empty_memory(torch.zeros(4, dtype=dtype), num_workers)
    errors = []

    for update in range(10_000):
        worker = torch.randint(num_workers, (num_returns,), generator=generator)
        remember(memory, worker, torch.randn(num_returns, 4, generator=generator, dtype=dtype))
        if update % 1_000 == 999:
            difference = memory["slot_sum"] - exact_sum(memory["slots"])
            errors.append(float(difference.abs().max()))

    # Normal draws: none of 120,000 is beyond 6.
    assert max(errors) < most_roundoff(num_workers, 6, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_errors_of_large_early_returns_are_forgotten(dtype: torch.dtype) -> None:
    """Returns that were a billion times larger leave nothing behind after two sweeps.

    A plain running sum keeps their rounding errors, here far above the small returns' own.
    """
    num_workers, num_returns = 10, 2
    generator = torch.Generator().manual_seed(2)
    memory = empty_memory(torch.zeros(4, dtype=dtype), num_workers)
    plain_sum = torch.zeros(4, dtype=torch.float64)

    for size, num_updates in ((1e6, 200), (1e-3, 60)):
        for _ in range(num_updates):
            worker = torch.randperm(num_workers, generator=generator)[:num_returns]
            rows = size * torch.randn(num_returns, 4, generator=generator, dtype=dtype)
            plain_sum += (rows - latest(memory, worker)).sum(dim=0)
            remember(memory, worker, rows)

    expected = exact_sum(memory["slots"])
    bound = most_roundoff(num_workers, 6e-3, dtype)
    assert bool(memory["slot_filled"].all())
    assert float((memory["slot_sum"] - expected).abs().max()) < bound
    assert float((plain_sum - expected).abs().max()) > 100 * bound


buffers = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-50, 50)), min_size=1, max_size=9),
    min_size=1,
    max_size=12,
)


@given(rounds=buffers)
@settings(max_examples=50, deadline=None)
def test_equals_a_dictionary(rounds: list[list[tuple[int, int]]]) -> None:
    """Slots, sum, sweep and counts are those of a dict of latest values, after every buffer."""
    memory = empty_memory(torch.zeros(1, dtype=torch.float64), 6)
    slots = [0.0] * 6
    seen: set[int] = set()

    for buffer in rounds:
        for worker, value in buffer:
            slots[worker] = float(value)
            seen.add(worker)
        remember(
            memory,
            torch.tensor([worker for worker, _ in buffer]),
            torch.tensor([[value] for _, value in buffer], dtype=torch.float64),
        )

        # Integers: every sum is exact.
        swept = int(memory["sweep_next"])
        assert memory["slots"].squeeze(dim=1).tolist() == slots
        assert memory["slot_sum"].item() == sum(slots)
        assert memory["sweep_sum"].item() == sum(slots[:swept])
        assert memory["num_filled"].item() == len(seen)
        assert set(memory["slot_filled"].nonzero().flatten().tolist()) == seen
        assert mean_of_all(memory).item() == pytest.approx(sum(slots) / 6, rel=1e-15)


def test_newest_returns() -> None:
    """Of each worker in a buffer, the position of its last return is found."""
    worker = torch.tensor([4, 1, 4, 2, 1, 4])

    newest = newest_returns(worker)

    assert newest.tolist() == [4, 3, 5]
    assert newest_returns(torch.tensor([3])).tolist() == [0]


def test_latest_is_a_copy() -> None:
    """What was looked up does not change when the slot is overwritten."""
    memory = empty_memory(torch.zeros(1), 3)
    remember(memory, torch.tensor([2]), torch.tensor([[5.0]]))

    before = latest(memory, torch.tensor([2]))
    remember(memory, torch.tensor([2]), torch.tensor([[7.0]]))

    assert before.item() == 5
    assert latest(memory, torch.tensor([2])).item() == 7


def test_means_before_all_have_returned() -> None:
    """The mean is over all workers (zeros), those that have returned (seen), or absent (wait)."""
    memory = empty_memory(torch.zeros(1), 4)
    remember(memory, torch.tensor([0, 2, 2]), torch.tensor([[6.0], [1.0], [2.0]]))

    zeros, seen = mean_of_latest(memory, "zeros"), mean_of_latest(memory, "seen")

    assert zeros is not None
    assert seen is not None
    assert (zeros.item(), seen.item()) == (2, 4)
    assert mean_of_latest(memory, "wait") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_untouched_zeros_are_ordinary_zeros(dtype: torch.dtype) -> None:
    """They have the asked shape and dtype, can be written, and share nothing."""
    like = torch.ones(3, dtype=dtype)

    first, second = untouched_zeros(5, like), untouched_zeros(5, like)
    first[4] = 7

    assert first.dtype == dtype
    assert first.tolist() == [[0, 0, 0]] * 4 + [[7, 7, 7]]
    assert not second.any()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's size from /proc")
def test_memory_grows_with_the_workers_that_return() -> None:
    """Registered workers cost nothing; ten that return cost ten rows, also when swept."""
    num_workers, num_parameters = 100_000, 10_000
    before = resident_bytes()

    memory = empty_memory(torch.zeros(num_parameters), num_workers)
    for round_index in range(100):
        worker = torch.arange(10) * 9_999
        remember(memory, worker, torch.full((10, num_parameters), float(round_index)))

    # All rows would be 4 GB; ten rows and the buffers are 1 MB.
    assert resident_bytes() - before < 32 * 2**20
    assert memory["slot_sum"][0].item() == 990


def resident_bytes() -> int:
    """Read how much memory this process really uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
