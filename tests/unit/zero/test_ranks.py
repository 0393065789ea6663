"""The pool of ranks that the tests of ``tasks.zero`` run on."""

import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankPool, RanksFailedError


def sum_of_ranks(rank: int, num_ranks: int, factor: float) -> float:
    """Add up the ranks over all of them."""
    del num_ranks
    value = torch.tensor(rank * factor)
    dist.all_reduce(value)
    return value.item()


def fail_on(rank: int, num_ranks: int, failing: int) -> None:
    """Fail on one rank."""
    del num_ranks
    assert rank != failing, "on purpose"


def die_on(rank: int, num_ranks: int, dying: int) -> None:
    """End one rank at once."""
    del num_ranks
    if rank == dying:
        os._exit(9)


def test_ranks_work_together(ranks: Callable[[int], RankPool]) -> None:
    """Every rank computes, and they hear each other."""
    assert ranks(4).run(sum_of_ranks, 0.5) == [3.0] * 4


def test_a_failure_is_told_and_the_pool_goes_on(ranks: Callable[[int], RankPool]) -> None:
    """Whatever a rank raises reaches the test, and so does its death; then all is as before."""
    with pytest.raises(RanksFailedError, match=r"rank 1:\n(.|\n)*on purpose"):
        ranks(2).run(fail_on, 1)
    with pytest.raises(RanksFailedError, match=r"rank 0:\nended with 9"):
        ranks(2).run(die_on, 0)

    assert ranks(2).run(sum_of_ranks, 1.0) == [1.0, 1.0]
