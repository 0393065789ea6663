"""The engine is data-parallel AdamW, however its states are split (dossier ZeRO-topo, 8)."""

import itertools
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.gpt import is_frozen
from configs.sharding import ROWS, Partition
from configs.training import TrainingExperiment
from models.gpt import build_gpt
from tasks.zero.engines import build_engine
from tasks.zero.interface import StepReport
from tasks.zero.layout import padded
from tasks.zero.sharded_state import load_state
from tasks.zero.traffic import ElementBytes, UnitSize, expected_bytes, state_bytes
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import (
    CPU,
    TINY,
    Trained,
    load_and_train,
    micro_batches,
    tiny,
    train,
    train_and_save,
    train_by_hand,
    train_on_equal_tokens,
)

Ranks = Callable[[int], RankPool]

BURSTING = TINY | {"init_std": 1e9}  # scores of 1e36, and their products above float32's largest
SMALL = TINY | {"hidden": 6, "heads": 1, "rotary_fraction": 1, "vocabulary": 37}
"""Eight ranks divide none of its lengths, and some parameters have fewer elements than that."""
BFLOAT16 = ElementBytes(weights=2, sums=4, optimizer=12)
FLOAT32 = ElementBytes(weights=4, sums=4, optimizer=12)
FLOAT64 = ElementBytes(weights=8, sums=8, optimizer=24)
EPSILONS = {"float64": 1e-8, "float32": 1e-5}
"""Adam's, above the rounding of gradients: what has none else would get steps of full size.

That is so of the keys' biases that do not rotate: softmax does not see what all scores share.
"""
SWITCHED: dict[str, dict[str, object]] = {
    "reusing": {"weights": "int8", "reuse_secondary": True},
    "feedback": {"gradients": "int4", "sync": "int4", "error_feedback": True},
}
_NAMES = ("forward", "backward", "gradients", "optimizer")


def nested_partitions(num_ranks: int) -> list[Partition]:
    """Return every partition whose degrees are levels of a machine of 2 | 4 | 8."""
    degrees = [d for d in (1, 2, 4, 8) if d <= num_ranks]
    every = (Partition(**partition_of(chosen)) for chosen in itertools.product(degrees, repeat=4))
    return [one for one in every if not list(one.faults(num_ranks, ""))]


def partition_of(degrees: tuple[int, ...]) -> dict[str, int]:
    """Return the partition with these degrees, in the order of ``Partition``."""
    return dict(zip(_NAMES, degrees, strict=True))


def clipped_share(reference: Trained, clip: float) -> float:
    """Return the share of the train steps whose gradient is longer than the clip."""
    return sum(norm > clip for norm in reference.norms) / len(reference.norms)


def farthest(ours: Trained, reference: Trained) -> float:
    """Return the largest relative difference of losses, norms, and weights by parameter."""
    pairs = [
        *zip(ours.losses, reference.losses, strict=True),
        *zip(ours.norms, reference.norms, strict=True),
    ]
    scalars = [abs(a - b) / abs(b) for a, b in pairs]
    assert ours.weights.keys() == reference.weights.keys()
    weights = [
        # Frozen biases are 0: of these any difference is infinite, and none is none.
        0.0 if torch.equal(ours.weights[name], value) else _relative(ours.weights[name], value)
        for name, value in reference.weights.items()
    ]
    return torch.tensor(scalars + weights, dtype=torch.float64).max().item()  # NaN, if one is NaN


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def unit_sizes(experiment: TrainingExperiment) -> list[UnitSize]:
    """Return the units of an experiment, from closed forms.

    Its head is not tied, and of what is frozen stages are whole.
    """
    model, transport = experiment.model, experiment.transport
    quantizes = {"int8", "int4"} & set(transport.model_dump().values())
    block_size = transport.block_size if quantizes else 1
    degree = max(experiment.degrees.degrees, default=1)
    ends = model.vocabulary * model.hidden
    lengths = [ends, *[model.block_parameters] * model.layers, ends + 2 * model.hidden]
    return [
        UnitSize(
            padded(length, degree=degree, block_size=block_size),
            is_trainable=not is_frozen(f"stages.{number}.", experiment.frozen),
            backward_gathers=0 if number == len(lengths) - 1 else 1,
        )
        for number, length in enumerate(lengths)
    ]


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


@pytest.mark.parametrize("row", [row for row in ROWS if row != "mics"])  # it is hsdp
def test_every_row_is_data_parallel_adamw(
    ranks: Ranks, by_hand: Callable[..., Trained], row: str
) -> None:
    """Losses, norms and weights are those of DDP with AdamW, to rounding in float64."""
    experiment, reference = tiny(partition=row, steps=8), by_hand(steps=8)

    (ours, *others) = ranks(8).run(train, experiment)

    assert 0.25 <= clipped_share(reference, experiment.optimizer.clip) < 1
    assert farthest(ours, reference) < 1e-12
    assert all(other.losses == ours.losses for other in others)


@pytest.mark.parametrize("degrees", [(4, 1, 2, 8), (8, 2, 8, 8), (2, 1, 8, 8), (4, 4, 1, 4)])
def test_any_nested_partition_is_data_parallel_adamw(
    ranks: Ranks, by_hand: Callable[..., Trained], degrees: tuple[int, ...]
) -> None:
    """So it is for partitions without a name, with tied, frozen and accumulated gradients."""
    fields = {
        "model": TINY | {"tied": True, "parallel_residual": False},
        "frozen": ["stages.1.attention*", "stages.2.mlp_norm.bias"],
        "accumulation": 4,
        "steps": 5,
        "clip": 0.45,
    }
    reference = by_hand(**fields)

    ours = ranks(8).run(train, tiny(partition=partition_of(degrees), **fields))[0]

    assert 0.25 <= clipped_share(reference, 0.45) < 1
    assert farthest(ours, reference) < 1e-12


@pytest.mark.parametrize("degrees", [(8, 8, 8, 8), (2, 1, 4, 8), (4, 2, 2, 4)])
@pytest.mark.parametrize(("tied", "clip"), [(False, 0.515), (True, 0.41)])
def test_lengths_that_ranks_do_not_divide_are_padded(
    ranks: Ranks,
    by_hand: Callable[..., Trained],
    degrees: tuple[int, ...],
    clip: float,
    *,
    tied: bool,
) -> None:
    """Biases and norms of 6 numbers on 8 ranks, and units of 222 and 510, change nothing."""
    fields = {"model": SMALL | {"tied": tied}, "steps": 5, "clip": clip}
    experiment, reference = tiny(partition=partition_of(degrees), **fields), by_hand(**fields)

    ours = ranks(8).run(train, experiment)[0]

    lengths = {experiment.model.vocabulary * 6, experiment.model.block_parameters}
    assert lengths == {222, 510}
    assert 0.25 <= clipped_share(reference, clip) < 1
    assert farthest(ours, reference) < 1e-12


@pytest.mark.parametrize(
    "frozen", [["stages.0.weight"], ["stages.0.*", "stages.1.*", "stages.2.mlp*"]], ids=str
)
def test_whole_stages_may_be_frozen(
    ranks: Ranks, by_hand: Callable[..., Trained], frozen: list[str]
) -> None:
    """The embedding, too, of which nothing has a gradient then."""
    fields = {"frozen": frozen, "steps": 3}

    ours = ranks(8).run(train, tiny(partition="zero_topo", **fields))[0]

    assert farthest(ours, by_hand(**fields)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_all_nested_partitions_are_data_parallel_adamw(
    ranks: Ranks,
    by_hand: Callable[..., Trained],
    accumulation: int,
    dtype: str,
    tolerance: float,
    *,
    tied: bool,
) -> None:
    """All 65 partitions of 8 ranks, 20 train steps: to 1e-12 in float64, to 1e-6 in float32."""
    clip = 0.7 if accumulation == 1 else 0.35
    fields: dict[str, object] = {
        "model": TINY | {"tied": tied},
        "frozen": ["stages.2.mlp.up*"] if tied else [],
        "accumulation": accumulation,
        "clip": clip,
        "dtype": dtype,
        "epsilon": EPSILONS[dtype],
    }
    reference = by_hand(**fields)

    distances = {
        str(one): farthest(ranks(8).run(train, tiny(partition=one, **fields))[0], reference)
        for one in nested_partitions(8)
    }

    sys.stdout.write(f"{dtype}: {max(distances.values()):.2g} of {tolerance:.2g}\n")
    assert 0.25 <= clipped_share(reference, clip) < 1
    assert len(distances) == 65
    assert {name for name, far in distances.items() if not far <= tolerance} == set()


@pytest.mark.slow
def test_all_nested_partitions_of_lengths_that_are_padded(
    ranks: Ranks, by_hand: Callable[..., Trained]
) -> None:
    """All 65 partitions of 8 ranks, for a model none of whose lengths they divide, in float64."""
    fields = {"model": SMALL, "steps": 5, "clip": 0.515}
    reference = by_hand(**fields)

    distances = {
        str(one): farthest(ranks(8).run(train, tiny(partition=one, **fields))[0], reference)
        for one in nested_partitions(8)
    }

    assert len(distances) == 65
    assert {name for name, far in distances.items() if not far <= 1e-12} == set()


@pytest.mark.slow
@pytest.mark.parametrize("row", ["zero3", "zeropp", "hfsdp", "zero_topo"])
def test_two_nodes_of_frontier_are_data_parallel_adamw(ranks: Ranks, row: str) -> None:
    """Sixteen ranks on nodes of eight and packages of two: the method's own 2 | 8 | N."""
    fields = {"ranks": 16, "topology": "frontier", "steps": 5, "accumulation": 2, "clip": 0.5}
    experiment = tiny(partition=row, **fields)
    reference = ranks(16).run(train_by_hand, tiny(**fields))[0]

    ours = ranks(16).run(train, experiment)[0]

    assert 0.25 <= clipped_share(reference, 0.5) < 1
    assert farthest(ours, reference) < 1e-12
    assert ours.reports[-1].received_bytes == expected_bytes(
        unit_sizes(experiment),
        experiment.degrees,
        experiment.transport,
        experiment.topology,
        num_ranks=16,
        items=FLOAT64,
        accumulation=2,
    )


def test_in_float32_it_is_so_to_its_rounding(ranks: Ranks, by_hand: Callable[..., Trained]) -> None:
    """Ten train steps in float32 stay within 1e-6, recomputed or not, whatever is prefetched."""
    fields = {
        "dtype": "float32",
        "accumulation": 2,
        "steps": 10,
        "clip": 0.5,
        "epsilon": EPSILONS["float32"],
    }
    reference = by_hand(**fields)

    ours = ranks(8).run(train, tiny(partition="zero_topo", recompute=True, prefetch=3, **fields))[0]
    others = ranks(8).run(train, tiny(partition="zero_topo", prefetch=0, **fields))[0]

    assert 0.25 <= clipped_share(reference, 0.5) < 1
    assert farthest(ours, reference) < 1e-6
    assert ours.losses == others.losses


def test_in_bfloat16_gradients_add_up_in_float32_wherever_they_are(ranks: Ranks) -> None:
    """Summed where they are made, or sent away each micro-batch: the same sums, to rounding."""
    fields = {"dtype": "bfloat16", "accumulation": 3, "steps": 3}
    stay, leave = (
        ranks(8).run(train, tiny(partition=row, **fields))[0] for row in ("zero1", "zero2")
    )

    assert stay.norms == pytest.approx(leave.norms, rel=1e-3)
    assert stay.norms[0] == pytest.approx(leave.norms[0], rel=1e-6)
    assert stay.losses == pytest.approx(leave.losses, rel=1e-3)


@pytest.mark.parametrize(
    ("row", "transport", "accumulation"),
    [
        *[(row, "full", 1) for row in ROWS if row != "mics"],
        *[(row, "zeropp", 3) for row in ("zeropp", "zero2", "hsdp")],
        *[(row, "zero_topo_quantized_sync", 2) for row in ("zero_topo", "hfsdp", "zeropp")],
        *[(row, "reusing", 3) for row in ("zeropp", "zero_topo", "zero3")],
        *[(row, "feedback", 2) for row in ("zeropp", "zero_topo", "hsdp", "ddp")],
    ],
)
def test_every_byte_is_counted(ranks: Ranks, row: str, transport: str, accumulation: int) -> None:
    """What each level of the machine carries is what the table of the method says.

    So is what a rank keeps, the errors of quantized sums included.
    """
    experiment = tiny(
        partition=row,
        transport=SWITCHED.get(transport, transport),
        accumulation=accumulation,
        dtype="bfloat16",
        steps=2,
    )

    trained: list[Trained] = ranks(8).run(train, experiment)

    units = unit_sizes(experiment)
    expected = expected_bytes(
        units,
        experiment.degrees,
        experiment.transport,
        experiment.topology,
        num_ranks=8,
        items=BFLOAT16,
        accumulation=accumulation,
    )
    for one in trained:
        assert all(report.received_bytes == expected for report in one.reports)
        states = state_bytes(
            units,
            experiment.degrees,
            experiment.transport,
            experiment.topology,
            num_ranks=8,
            items=BFLOAT16,
        )
        assert one.state_bytes == states


def train_and_evaluate(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> list[StepReport]:
    """Train, and evaluate before the last step."""
    del num_ranks
    reports = []
    with closing(build_engine(experiment, CPU)) as engine:
        for step in range(experiment.steps):
            batches = micro_batches(experiment, step, rank)
            if step == experiment.steps - 1:
                engine.evaluate(batches)
            reports.append(engine.train_step(batches, experiment.optimizer.lr))
    return reports


@pytest.mark.parametrize(
    "partition", ["zeropp", partition_of((8, 1, 8, 8))], ids=["shard", "whole"]
)
@pytest.mark.parametrize(
    "fields",
    [{}, {"frozen": ["stages.1.*"]}, {"dtype": "float32", "model": BURSTING}],
    ids=["trained", "frozen", "skipped"],
)
def test_no_copy_outlives_its_train_step(
    ranks: Ranks, partition: str | dict[str, int], fields: dict[str, Any]
) -> None:
    """With ``reuse_secondary`` every train step moves the bytes of the closed form.

    So it does after another step, and after a validation; where weights are frozen, or a step is
    skipped, and so nothing is refreshed; whether what stays is a shard, or the whole vector.
    """
    experiment = tiny(
        partition=partition,
        transport=SWITCHED["reusing"],
        accumulation=2,
        steps=3,
        **{"dtype": "bfloat16"} | fields,
    )

    reports: list[StepReport] = ranks(8).run(train_and_evaluate, experiment)[0]

    expected = expected_bytes(
        unit_sizes(experiment),
        experiment.degrees,
        experiment.transport,
        experiment.topology,
        num_ranks=8,
        items=BFLOAT16 if experiment.dtype == "bfloat16" else FLOAT32,
        accumulation=2,
    )
    assert [report.received_bytes for report in reports] == [expected] * 3
    assert all(report.is_skipped == ("model" in fields) for report in reports)


def test_no_byte_crosses_nodes_inside_a_micro_batch(ranks: Ranks) -> None:
    """With ZeRO-topo the traffic between nodes does not grow with the accumulation."""
    one, four = (
        ranks(8).run(train, tiny(partition="zero_topo", accumulation=n, steps=1))[0].reports[0]
        for n in (1, 4)
    )

    assert four.received_bytes["cluster"] == one.received_bytes["cluster"] > 0
    assert four.received_bytes["node"] > one.received_bytes["node"]


@pytest.mark.parametrize("wire", ["full", "int8", "int4"])
@pytest.mark.parametrize("row", ["zero_topo", "zeropp", "ddp"])
def test_the_gradient_is_the_mean(ranks: Ranks, row: str, wire: str) -> None:
    """Ranks that all see the same gradient update by it, matrices and vectors alike, once."""
    transport = {"gradients": wire, "sync": wire}
    fields = {"accumulation": 2, "steps": 1, "dtype": "float32"}
    experiment = tiny(partition=row, transport=transport, **fields)
    alone = tiny(partition="ddp", ranks=1, **fields | {"accumulation": 1})

    ours = ranks(8).run(train_on_equal_tokens, experiment)[0]
    reference = ranks(1).run(train_on_equal_tokens, alone)[0]

    # Half a step of a block's largest element, at most twice; the largest of them dominate a norm.
    tolerance = {"full": 1e-5, "int8": 2e-2, "int4": 2e-1}[wire]
    assert ours.norms[0] == pytest.approx(reference.norms[0], rel=tolerance)
    assert ours.losses[0] == pytest.approx(reference.losses[0], rel=1e-6)


@pytest.mark.parametrize(
    "transport",
    [
        {"weights": "int8"},
        {"gradients": "int4", "sync": "int4", "error_feedback": True, "block_size": 32},
        {"gradients": "int8", "sync": "int4", "hadamard": True, "block_size": 64},
        {"refresh": "int8", "gradients": "bfloat16"},
    ],
)
def test_quantized_it_trains_nearly_as_well(
    ranks: Ranks, by_hand: Callable[..., Trained], transport: dict[str, Any]
) -> None:
    """Losses stay near those of full precision, and all ranks keep the same weights."""
    fields = {"dtype": "float32", "accumulation": 2, "steps": 8}
    trained = ranks(8).run(train, tiny(partition="zero_topo", transport=transport, **fields))

    reference = by_hand(**fields)
    # Tokens are random: the loss moves from log 40 by what is learnt of their frequencies alone.
    assert trained[0].losses == pytest.approx(reference.losses, rel=5e-3)
    assert trained[0].losses != reference.losses
    assert all(other.losses == trained[0].losses for other in trained)


def test_a_state_goes_on_with_other_ranks(ranks: Ranks, tmp_path: Path) -> None:
    """Saved by 8 ranks in one partition, continued by 4 in another, it is as if nothing was."""
    first = tiny(partition="zero_topo", accumulation=1, steps=6)
    second = tiny(partition="hsdp", ranks=4, accumulation=2, steps=6)

    whole = ranks(8).run(train, first)[0]
    ranks(8).run(train_and_save, first, 3, str(tmp_path))
    rest = ranks(4).run(load_and_train, second, 3, str(tmp_path))[0]

    assert rest.losses == pytest.approx(whole.losses[3:], rel=1e-12)


def test_a_gradient_that_is_not_finite_changes_nothing(ranks: Ranks) -> None:
    """Train steps whose gradient overflows are skipped by all ranks, and say so."""
    experiment = tiny(partition="zero_topo", steps=2, dtype="float32", model=BURSTING)

    skipped: list[Trained] = ranks(8).run(train, experiment)

    assert [[report.is_skipped for report in one.reports] for one in skipped] == [[True] * 2] * 8
    initial = build_gpt(experiment.model, experiment.sequence, experiment.seed)
    for name, value in initial.named_parameters():
        torch.testing.assert_close(skipped[0].weights[name], value, rtol=0, atol=0)


def test_skipped_steps_do_not_count_as_updates(ranks: Ranks, tmp_path: Path) -> None:
    """Adam's correction of its moments goes by updates: a checkpoint says how many there were."""
    experiment = tiny(ranks=2, partition="zero3", steps=2, dtype="float32", model=BURSTING)
    counts: dict[str, object] = {name: torch.tensor(-1) for name in ("num_steps", "num_updates")}

    ranks(2).run(train_and_save, experiment, 2, str(tmp_path))
    load_state(tmp_path, counts)

    assert counts == {"num_steps": torch.tensor(2), "num_updates": torch.tensor(0)}
