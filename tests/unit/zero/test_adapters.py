"""DeepSpeed and FSDP2 behind the interface of our engine, on 4 gloo ranks, two to a node."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError
from tasks.zero.adapters.quantizer_op import TorchQuantizer
from tasks.zero.engines import build_engine
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import CPU, Trained, micro_batches, tiny, train, train_by_hand

Ranks = Callable[[int], RankPool]

NODES_OF_2 = {"name": "two-by-two", "levels": [{"name": "node", "ranks": 2}]}
WHOLE = {"forward": 4, "backward": 1, "gradients": 1, "optimizer": 4}
"""FSDP2 without resharding after the forward pass, and with whole gradients."""
HARD = {
    "accumulation": 2,
    "model": {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 40, "tied": True},
    "frozen": ["stages.1.mlp.up.weight", "stages.2.attention.*"],
    "recompute": True,
}


def small(engine: str, **fields: Any) -> TrainingExperiment:
    """Return an experiment of 4 train steps on 4 ranks, in float32."""
    base = {
        "engine": engine,
        "partition": "zero3",
        "ranks": 4,
        "topology": NODES_OF_2,
        "steps": 4,
        "dtype": "float32",
        "model": {"layers": 2, "hidden": 32, "heads": 2, "vocabulary": 40},
    }
    return tiny(**base | fields)


@pytest.fixture(scope="module")
def deepspeed_ranks() -> Iterator[RankPool]:
    """Ranks of their own: what DeepSpeed sets when it is imported ends with this module."""
    pool = RankPool(4)
    yield pool
    pool.close()


def differences(found: Trained, expected: Trained) -> float:
    """Return the largest relative difference of losses, gradient norms and weights."""
    pairs = [
        *zip(found.losses, expected.losses, strict=True),
        *zip(found.norms, expected.norms, strict=True),
    ]
    assert list(found.weights) == list(expected.weights)
    weights = [
        float((found.weights[name] - value).norm() / value.norm())
        for name, value in expected.weights.items()
    ]
    return max([abs(a - b) / abs(b) for a, b in pairs] + weights)


# float32: sums in another order, 4 updates. AdamW divides a gradient by its own size, so that the
# rounding of one near 0 (a bias's) becomes a visible share of that parameter's first updates.
ROUNDING = 2e-4


@pytest.mark.parametrize(
    ("partition", "fields"),
    [
        ("zero3", HARD),
        ("hsdp", HARD),
        ("zeropp", {}),
        (WHOLE, {"accumulation": 2}),
        ("zero3", {"frozen": ["stages.0.weight"]}),
    ],
)
def test_fsdp2_is_data_parallel_adamw(ranks: Ranks, partition: Any, fields: dict[str, Any]) -> None:
    """Losses, norms and weights are those of plain AdamW on averaged gradients."""
    experiment = small("fsdp2", partition=partition, **fields)

    found = ranks(4).run(train, experiment)[0]

    assert differences(found, ranks(4).run(train_by_hand, experiment)[0]) < ROUNDING


def test_fsdp2_in_float64_reports_losses_in_float64(ranks: Ranks) -> None:
    """They are those of plain AdamW to 12 digits, of which float32 has 7."""
    experiment = small("fsdp2", dtype="float64", accumulation=2)

    found = ranks(4).run(train, experiment)[0]

    expected = ranks(4).run(train_by_hand, experiment)[0]
    assert found.losses == pytest.approx(expected.losses, rel=1e-12)


@pytest.mark.parametrize(
    ("partition", "fields"),
    [
        pytest.param("ddp", {}, marks=pytest.mark.slow),
        ("zero1", HARD),
        pytest.param("zero2", {"accumulation": 2}, marks=pytest.mark.slow),
        ("zero3", HARD),
        ("zeropp", {}),
    ],
)
def test_deepspeed_is_data_parallel_adamw(
    deepspeed_ranks: RankPool, partition: str, fields: dict[str, Any]
) -> None:
    """Losses, norms and weights of its stages, and of hpZ, are those of plain AdamW."""
    experiment = small("deepspeed", partition=partition, **fields)

    found = deepspeed_ranks.run(train, experiment)[0]

    assert differences(found, deepspeed_ranks.run(train_by_hand, experiment)[0]) < ROUNDING


@pytest.mark.parametrize(
    ("engine", "partition"),
    [
        ("fsdp2", "hsdp"),
        ("deepspeed", "ddp"),
        pytest.param("deepspeed", "zero1", marks=pytest.mark.slow),
        pytest.param("deepspeed", "zero3", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_trains_as_float32_does(
    deepspeed_ranks: RankPool, engine: str, partition: str
) -> None:
    """Losses are those of float32, though DeepSpeed's stage 0 would begin with an empty step.

    Forward passes in bfloat16 change them by 1e-4, that step by 5e-4.
    """
    experiment = small(engine, partition=partition, dtype="bfloat16")
    exact = small("ours", partition="ddp")

    found = deepspeed_ranks.run(train, experiment)[0]
    expected = deepspeed_ranks.run(train_by_hand, exact)[0]

    assert found.losses == pytest.approx(expected.losses, rel=2e-4)
    assert found.norms == pytest.approx(expected.norms, rel=1e-2)


def test_state_bytes_of_fsdp2_are_those_of_its_shards(ranks: Ranks) -> None:
    """Weights, gradients and moments in float32 are 16 bytes a parameter, over the degree."""
    zero3 = small("fsdp2", partition="zero3", steps=1)
    hsdp = small("fsdp2", partition="hsdp", steps=1)
    steps = 4 * 2 * (12 * 2 + 4)  # AdamW counts its steps once a parameter

    per_rank = ranks(4).run(train, zero3)[0].state_bytes

    assert per_rank == pytest.approx(16 * zero3.model.num_parameters / 4, abs=steps)
    twice = ranks(4).run(train, hsdp)[0].state_bytes
    assert twice == pytest.approx(16 * hsdp.model.num_parameters / 2, abs=steps)


def test_zeropp_of_deepspeed_quantizes_and_learns(deepspeed_ranks: RankPool) -> None:
    """With qwZ, qgZ and hpZ losses are near those of full transport, but not the same."""
    full = small("deepspeed", partition="zeropp")
    quantized = small("deepspeed", partition="zeropp", transport="zeropp")

    exact = deepspeed_ranks.run(train, full)[0]
    found = deepspeed_ranks.run(train, quantized)[0]

    assert found.losses != exact.losses
    assert found.losses == pytest.approx(exact.losses, rel=5e-3)


def reduced_constants(rank: int, num_ranks: int) -> list[list[float]]:
    """Reduce a matrix and a vector, -1 on all ranks, as DeepSpeed does with qgZ."""
    engine = build_engine(small("deepspeed", transport={"gradients": "int4", "sync": "int4"}), CPU)
    from deepspeed.runtime.comm import (  # type: ignore[import-untyped]  # noqa: PLC0415
        coalesced_collectives,
    )
    from deepspeed.utils import groups  # type: ignore[import-untyped]  # noqa: PLC0415

    del rank, num_ranks
    tensors = [torch.full((8, 16), -1.0), torch.full((16,), -1.0)]
    try:
        found = coalesced_collectives.all_to_all_quant_reduce(
            tensors, groups._get_local_all_to_all_group()
        )
        return [tensor.tolist() for tensor in found]
    finally:
        engine.close()


def test_gradients_of_qgz_are_the_mean_times_the_ranks_of_a_node(
    deepspeed_ranks: RankPool,
) -> None:
    """DeepSpeed gives twice the mean of a matrix with 2 ranks to a node, the mean of a vector.

    -1 is a number of its INT4, so that the factor is exact. Ours gives the mean of both.
    """
    for matrix, vector in deepspeed_ranks.run(reduced_constants):
        assert matrix == [-2.0] * (8 * 16 // 4)
        assert vector == [-1.0] * (16 // 4)


def save_and_continue(
    rank: int, num_ranks: int, experiment: TrainingExperiment, directory: Path
) -> list[float]:
    """Train two steps, save, evaluate, and train two more; return the later losses."""
    del num_ranks
    engine = build_engine(experiment, CPU)
    try:
        for step in range(2):
            engine.train_step(micro_batches(experiment, step, rank), 1e-2)
        save = engine.begin_save(directory)
        engine.evaluate(micro_batches(experiment, 0, rank))
        save.wait()
        steps = (micro_batches(experiment, step, rank) for step in (2, 3))
        return [engine.train_step(batches, 1e-2).loss for batches in steps]
    finally:
        engine.close()


def load_and_continue(
    rank: int, num_ranks: int, experiment: TrainingExperiment, directory: Path
) -> list[float]:
    """Train one other step, load, and train the same two steps; return their losses."""
    del num_ranks
    engine = build_engine(experiment, CPU)
    try:
        engine.train_step(micro_batches(experiment, 7, rank), 1e-2)
        engine.load(directory)
        steps = (micro_batches(experiment, step, rank) for step in (2, 3))
        return [engine.train_step(batches, 1e-2).loss for batches in steps]
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("engine", "partition"),
    [pytest.param("fsdp2", "zeropp", marks=pytest.mark.slow), ("deepspeed", "zero3")],
)
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    deepspeed_ranks: RankPool, tmp_path: Path, engine: str, partition: str
) -> None:
    """Losses after loading are those after saving, to the bit."""
    experiment = small(engine, partition=partition)

    saved = deepspeed_ranks.run(save_and_continue, experiment, tmp_path)
    loaded = deepspeed_ranks.run(load_and_continue, experiment, tmp_path)

    assert loaded == saved
    assert all(math.isfinite(loss) for loss in saved[0])


def test_fsdp2_loads_with_other_degrees(ranks: Ranks, tmp_path: Path) -> None:
    """A state saved by full sharding is taken by HSDP; losses agree to float32 rounding."""
    saved = ranks(4).run(save_and_continue, small("fsdp2", partition="zero3"), tmp_path)
    loaded = ranks(4).run(load_and_continue, small("fsdp2", partition="hsdp"), tmp_path)

    assert loaded[0] == pytest.approx(saved[0], rel=1e-6)


def refusals(
    rank: int, num_ranks: int, experiment: TrainingExperiment, directories: list[Path]
) -> list[str]:
    """Return what is said about each directory."""
    del rank, num_ranks
    engine = build_engine(experiment, CPU)
    messages = []
    try:
        for directory in directories:
            with pytest.raises(JobError) as caught:
                engine.load(directory)
            messages.append(str(caught.value))
        return messages
    finally:
        engine.close()


def test_deepspeed_refuses_a_checkpoint_that_is_none_or_of_other_ranks(
    deepspeed_ranks: RankPool, tmp_path: Path
) -> None:
    """The message says whose it is, and what to do."""
    other = tmp_path / "other" / "state"
    other.mkdir(parents=True)
    (other / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    directories = [tmp_path, other.parent]

    none, of_one = deepspeed_ranks.run(refusals, small("deepspeed"), directories)[0]

    assert none == f"{tmp_path} is no checkpoint of DeepSpeed; use the engine that wrote it"
    assert of_one.startswith(f"{other.parent} was saved by 1 ranks of DeepSpeed")
    assert of_one.endswith("which can only load it with as many, not 4")


def quantized_slowly(values: list[float], bits: int) -> tuple[list[int], float]:
    """Quantize one group as DeepSpeed's kernels do, number by number; the scale is the inverse."""
    steps = 2 ** (bits - 1)
    absmax = max(abs(value) for value in values)
    scale = steps / absmax if absmax else 1.0
    return [min(max(round(v * scale), -steps), steps - 1) for v in values], 1 / scale


@pytest.mark.parametrize("bits", [4, 8])
def test_quantizer_is_that_of_the_kernels(bits: int) -> None:
    """Numbers and scales are those of a loop: a zero group, both ends of the range, ties."""
    groups = [[0.0, 0.0, 0.0, 0.0], [8.0, -8.0, 0.5, 1.5], [-3.0, 1.0, 2.0, 0.1]]
    slow = [quantized_slowly(group, bits) for group in groups]

    packed, scales = TorchQuantizer.quantize(torch.tensor(groups), 3, bits, 0)
    values = TorchQuantizer.dequantize(packed, scales, 3, bits, 0)

    assert packed.dtype == torch.int8
    assert packed.shape == (3, 4 * bits // 8)
    assert scales.tolist() == pytest.approx([scale for _, scale in slow], rel=1e-7)
    expected = torch.tensor([[number * scale for number in row] for row, scale in slow])
    torch.testing.assert_close(values, expected)


def test_two_int4_share_a_byte_low_half_first() -> None:
    """-8 and 7 of a group with absmax 8 are the bytes 8 + 16 * 7."""
    packed, _ = TorchQuantizer.quantize(torch.tensor([-8.0, 7.0]), 1, 4, 0)

    assert packed.tolist() == [8 + 16 * 7]


@pytest.mark.parametrize("bits", [4, 8])
def test_swizzled_parts_are_ordered_by_device_then_node(bits: int) -> None:
    """With 2 nodes of 3 devices, parts 0..5 go as 0, 3, 1, 4, 2, 5, each with its scales."""
    parts = torch.arange(1.0, 7.0)[:, None].expand(6, 4)  # part p is p + 1 throughout

    packed, scales = TorchQuantizer.swizzle_quant(-parts, 12, bits, 0, 1, 2, 3)
    values = TorchQuantizer.dequantize(packed, scales, 12, bits, 0).view(6, 4)

    torch.testing.assert_close(values, -parts[[0, 3, 1, 4, 2, 5]])


@pytest.mark.parametrize("bits", [4, 8])
def test_reduction_sums_and_quantizes_again(bits: int) -> None:
    """Of what 2 devices sent it is the quantized sum of the dequantized parts."""
    generator = torch.Generator().manual_seed(0)
    sent = [torch.randn(16, generator=generator) for _ in range(2)]
    parts = [TorchQuantizer.quantize(values, 4, bits, 0) for values in sent]
    total = sum(TorchQuantizer.dequantize(*part, 4, bits, 0) for part in parts)
    assert isinstance(total, Tensor)
    expected = TorchQuantizer.quantize(total, 2, bits, 0)

    packed = torch.cat([part[0] for part in parts])
    scales = torch.cat([part[1] for part in parts])
    found = TorchQuantizer.quantized_reduction(packed, scales, 8, 2, bits, 0, 2)

    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def test_quantizer_refuses_what_it_cannot_do() -> None:
    """Groups that do not divide, parts without whole groups, and other formats are named."""
    values = torch.ones(12)

    with pytest.raises(ValueError, match="5 groups do not divide 12 elements"):
        TorchQuantizer.quantize(values, 5, 8, 0)
    with pytest.raises(ValueError, match="6 groups in 1 slices do not divide among 4 ranks; make"):
        TorchQuantizer.swizzle_quant(values, 6, 4, 0, 1, 2, 2)
    with pytest.raises(ValueError, match="2 bits of type 1: use 4 or 8, symmetric"):
        TorchQuantizer.quantize(values, 3, 2, TorchQuantizer.Asymmetric)
