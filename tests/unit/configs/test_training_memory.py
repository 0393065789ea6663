"""What a training keeps on each device."""

import pytest

from configs.sharding import Partition, named_partition
from configs.topology import load_topology
from configs.training import TrainingExperiment
from configs.training_memory import (
    DeviceMemory,
    ItemSizes,
    predicted_memory,
    state_memory,
)

MIXED = ItemSizes(weights=2, gradients=2, master=4, moments=8)
SUMMED_IN_FLOAT32 = ItemSizes(weights=2, gradients=4, master=4, moments=8)


@pytest.mark.parametrize(
    ("row", "sizes", "gigabytes"),
    [
        # Model states of 20.55 billion parameters on 8, 64 and 384 GCDs (dossier, 2.5).
        ("zero3", MIXED, (41.1, 5.1, 0.9)),
        ("zeropp", MIXED, (46.2, 10.3, 6.0)),
        ("mics", MIXED, (41.1, 41.1, 41.1)),
        ("hfsdp", MIXED, (41.1, 14.1, 10.9)),
        ("zero_topo", MIXED, (56.5, 29.5, 26.3)),
        ("zero_topo", SUMMED_IN_FLOAT32, (61.6, 34.7, 31.5)),
    ],
)
def test_the_states_are_those_of_the_table(
    row: str, sizes: ItemSizes, gigabytes: tuple[float, ...]
) -> None:
    """Bytes a device of every row, by hand, to the digit that the table has.

    On 8 ranks the table counts a secondary copy for ZeRO++ although it is the primary one there.
    """
    frontier = load_topology("frontier")

    predicted = [
        state_memory(20_550_000_000, named_partition(row, frontier, ranks), sizes).states / 1e9
        for ranks in (8, 64, 384)
    ]

    first = 0 if row != "zeropp" else 1
    assert predicted[first:] == pytest.approx(gigabytes[first:], abs=0.06)


def test_full_precision_weights_may_be_their_own_master() -> None:
    """DDP in float32 keeps 4 + 4 + 8 bytes a parameter; split at two levels, 4 more at the last."""
    ddp = TrainingExperiment.model_validate({"kind": "training", "partition": "ddp"})
    zero1 = TrainingExperiment.model_validate({"kind": "training", "partition": "zero1"})
    parameters = ddp.model.num_parameters

    assert predicted_memory(ddp).states == 16 * parameters
    assert predicted_memory(zero1).states == 8 * parameters + 12 * parameters // 8


def test_a_secondary_copy_is_counted_where_there_is_one() -> None:
    """A backward degree below the forward one is a copy of its own."""
    degrees = {"gradients": 8, "optimizer": 8}
    alike = Partition(forward=8, backward=8, **degrees)
    smaller = Partition(forward=8, backward=4, **degrees)

    assert state_memory(800, alike, MIXED).secondary == 0
    assert state_memory(800, smaller, MIXED).secondary == 400


def test_errors_of_quantized_gradients_count() -> None:
    """20 billion parameters on 384 GCDs fit without error feedback; with it they do not.

    An INT8 error of each parameter on every rank, 1 + 4/256 bytes, however much is split; and four
    float32 copies of the largest part while it is quantized.
    """
    raw = {
        "kind": "training",
        "model": "gpt-20b",
        "topology": "frontier",
        "ranks": 384,
        "partition": "zero_topo",
        "dtype": "bfloat16",
        "micro_batch": 1,
        "recompute": True,
    }

    def needed(*, error_feedback: bool, **formats: str) -> DeviceMemory:
        transport = formats | {"error_feedback": error_feedback}
        return predicted_memory(TrainingExperiment.model_validate(raw | {"transport": transport}))

    plain, fed = (needed(gradients="int4", error_feedback=switch) for switch in (False, True))
    synced = needed(gradients="int4", sync="int4", error_feedback=True)

    model = TrainingExperiment.model_validate(raw).model
    each = model.num_parameters * (1 + 4 / 256)
    assert fed.errors == pytest.approx(each, rel=1e-9)
    assert synced.errors == pytest.approx(each * (1 + 1 / 8), rel=1e-9)
    assert fed.states - plain.states == fed.errors
    assert fed.gathered - plain.gathered == 4 * 4 * model.block_parameters
    assert plain.total < 64e9 < fed.total
    # Without a quantized sum there is nothing to feed back.
    assert needed(error_feedback=True) == needed(error_feedback=False)


def test_activations_follow_tokens_and_recomputation() -> None:
    """A hand count: float32, 2 layers of width 8, 3 sequences of 5 tokens, 10 words."""
    raw = {
        "kind": "training",
        "model": {"layers": 2, "hidden": 8, "heads": 2, "vocabulary": 10, "rotary_fraction": 0.5},
        "data": {"tokenizer": "words.json"},
        "sequence": 5,
        "micro_batch": 3,
    }
    saved = TrainingExperiment.model_validate(raw)
    again = TrainingExperiment.model_validate(raw | {"recompute": True})

    # 15 tokens, each: 17 vectors of 8 a layer, and logits three times.
    assert predicted_memory(saved).activations == 15 * 4 * (2 * 17 * 8 + 3 * 10)
    assert predicted_memory(again).activations == 15 * 4 * (2 * 8 + 17 * 8 + 3 * 10)
