"""Ours, DeepSpeed and FSDP2 train the same model to the same loss from the same seed.

4 gloo ranks, 2 to a node; float32, 20 train steps with accumulation, clipping, warm-up and decay.
The tokens are never the same twice, so that an update that differs shows in the next loss.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from configs.training import TrainingExperiment
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import Trained, tiny, train

pytestmark = pytest.mark.slow

# The three add up gradients in different orders. Over the 20 steps that makes at most 6e-8 of the
# loss and 2e-7 of the norm (seen); a rounding of float32 is 6e-8.
ROUNDING = 1e-6
STEPS = 20


def experiment(engine: str, partition: str, **fields: Any) -> TrainingExperiment:
    """Return the training, on an engine."""
    topology = {"name": "two-by-two", "levels": [{"name": "node", "ranks": 2}]}
    base = {
        "ranks": 4,
        "topology": topology,
        "dtype": "float32",
        "steps": STEPS,
        "accumulation": 2,
        "model": {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 40},
    }
    return tiny(engine=engine, partition=partition, **base | fields)


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankPool]:
    """Ranks of their own: what DeepSpeed sets when it is imported ends with this module."""
    pool = RankPool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def plain(four_ranks: RankPool) -> Trained:
    """Return our plain data-parallel training, which tests/unit/zero compares with PyTorch's."""
    found: Trained = four_ranks.run(train, experiment("ours", "ddp"))[0]
    assert min(found.norms) < tiny().optimizer.clip < max(found.norms)
    return found


@pytest.mark.parametrize(
    ("partition", "engine"),
    [
        ("zero1", "ours"),
        ("zero1", "deepspeed"),
        ("zero2", "ours"),
        ("zero2", "deepspeed"),
        ("zero3", "ours"),
        ("zero3", "deepspeed"),
        ("zero3", "fsdp2"),
        ("zeropp", "ours"),
        ("zeropp", "deepspeed"),
        ("zeropp", "fsdp2"),
        ("hsdp", "ours"),
        ("hsdp", "fsdp2"),
    ],
)
def test_every_engine_ends_at_the_same_loss(
    four_ranks: RankPool, plain: Trained, partition: str, engine: str
) -> None:
    """Losses and gradient norms of all 20 steps are those of plain data parallelism."""
    found = four_ranks.run(train, experiment(engine, partition))[0]

    assert len(found.losses) == STEPS
    assert found.losses == pytest.approx(plain.losses, rel=ROUNDING)
    assert found.norms == pytest.approx(plain.norms, rel=ROUNDING)


@pytest.mark.parametrize("change", [{"weight_decay": 0.0}, {"clip": 0.8}], ids=str)
def test_the_tolerance_tells_trainings_apart(
    four_ranks: RankPool, plain: Trained, change: dict[str, float]
) -> None:
    """A change of the optimizer, without decay or with gradients a little longer, is outside."""
    optimizer = tiny().optimizer.model_dump() | change

    other = four_ranks.run(train, experiment("ours", "ddp", optimizer=optimizer))[0]

    assert abs(other.losses[-1] / plain.losses[-1] - 1) > 10 * ROUNDING
