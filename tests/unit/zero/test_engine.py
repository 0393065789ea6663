"""The engine is data-parallel AdamW, however its states are split (dossier ZeRO-topo, 8)."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from configs.sharding import ROWS, Partition
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import Trained, tiny, train, train_by_hand

Ranks = Callable[[int], RankPool]

_NAMES = ("forward", "backward", "gradients", "optimizer")


def nested_partitions(num_ranks: int) -> list[Partition]:
    """Return every partition whose degrees are levels of a machine of 2 | 4 | 8."""
    degrees = [d for d in (1, 2, 4, 8) if d <= num_ranks]
    every = (
        Partition(**dict(zip(_NAMES, chosen, strict=True)))
        for chosen in itertools.product(degrees, repeat=4)
    )
    return [one for one in every if not list(one.faults(num_ranks, ""))]


def farthest(ours: Trained, reference: Trained) -> float:
    """Return the largest relative difference of losses, norms, and weights by parameter."""
    pairs = [
        *zip(ours.losses, reference.losses, strict=True),
        *zip(ours.norms, reference.norms, strict=True),
    ]
    scalars = [abs(a - b) / abs(b) for a, b in pairs]
    assert ours.weights.keys() == reference.weights.keys()
    weights = [
        float((ours.weights[name] - value).norm() / value.norm())
        for name, value in reference.weights.items()
    ]
    return max(scalars + weights)


@pytest.fixture(scope="module")
def by_hand(ranks: Ranks) -> Callable[..., Trained]:
    """Return ``by_hand(**fields)``: the reference for an experiment, computed once."""
    done: dict[str, Trained] = {}

    def reference(**fields: Any) -> Trained:
        key = repr(sorted(fields.items()))
        if key not in done:
            done[key] = ranks(8).run(train_by_hand, tiny(**fields))[0]
        return done[key]

    return reference


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("accumulation", [1, 4])
def test_every_row_is_data_parallel_adamw(
    ranks: Ranks, by_hand: Callable[..., Trained], row: str, accumulation: int
) -> None:
    """Losses, norms and weights are those of DDP with AdamW, to rounding in float64."""
    (ours, *others) = ranks(8).run(train, tiny(partition=row, accumulation=accumulation))

    assert farthest(ours, by_hand(accumulation=accumulation)) < 1e-12
    assert all(other.losses == ours.losses for other in others)
