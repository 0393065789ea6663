"""What DeepSpeed and FSDP2 can express; tests/unit/zero/test_adapters.py runs what is allowed."""

from typing import Any

import pytest

from configs.engines import deepspeed_stage, engine_faults
from configs.sharding import Partition, named_partition
from configs.training import TrainingExperiment
from configs.transport import Transport


def experiment(engine: str, **fields: Any) -> TrainingExperiment:
    """Return an experiment on 8 ranks, 4 to a node, 2 to a package."""
    base = {"kind": "training", "engine": engine, "partition": "zero3", "transport": "full"}
    return TrainingExperiment.model_validate(base | fields)


def faults_of(engine: str, **fields: Any) -> list[str]:
    """Return its faults as text."""
    return [str(fault) for fault in engine_faults(experiment(engine, **fields))]


@pytest.mark.parametrize(
    ("row", "stage"),
    [
        ("ddp", 0),
        ("zero1", 1),
        ("zero2", 2),
        ("zero3", 3),
        ("zeropp", 3),
        ("hsdp", None),
        ("hfsdp", None),
        ("zero_topo", None),
    ],
)
def test_deepspeed_has_the_rows_of_its_stages(row: str, stage: int | None) -> None:
    """A row is one of DeepSpeed's stages, or refused."""
    degrees = named_partition(row, experiment("ours").topology, 8)

    assert deepspeed_stage(degrees, 8) == stage
    assert bool(faults_of("deepspeed", partition=row)) is (stage is None)


def test_ours_and_whole_zeropp_of_deepspeed_have_no_faults() -> None:
    """ZeRO-topo quantized everywhere is ours; qwZ, qgZ and hpZ together are DeepSpeed's."""
    ours = faults_of("ours", partition="zero_topo", transport="zero_topo_quantized_sync")
    theirs = faults_of("deepspeed", partition="zeropp", transport="zeropp")

    assert ours == theirs == []


def test_mics_is_refused_with_the_version_that_lost_it() -> None:
    """The fault names the installed version, the one that removed MiCS, and what to use."""
    (fault,) = faults_of("deepspeed", partition="mics")

    assert fault.startswith("partition: DeepSpeed 0.19.")
    assert "over 4 of 8 ranks: its MiCS was removed in 0.19.7" in fault
    assert "use engine fsdp2 or ours" in fault


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "float64"}, "dtype: DeepSpeed keeps its master weights in float32"),
        ({"compile": True}, "compile: DeepSpeed gathers weights by hooks"),
        ({"transport": {"weights": "int4"}}, "transport.weights: DeepSpeed gathers weights in"),
        ({"transport": {"gradients": "int8"}}, "transport.gradients: DeepSpeed reduces gradients"),
        ({"transport": {"gradients": "int4"}}, "transport.sync: DeepSpeed reduces gradients"),
        ({"transport": {"refresh": "int8"}}, "transport.refresh: DeepSpeed sends no updated"),
        ({"transport": {"error_feedback": True}}, "transport.error_feedback: DeepSpeed 0.19."),
        ({"transport": {"hadamard": True}}, "transport.hadamard: DeepSpeed does not transform"),
        (
            {"transport": {"weights": "int8", "block_size": 64}},
            "transport.block_size: DeepSpeed makes blocks of its own of each matrix, so that 64 "
            "would change nothing; leave it at 256",
        ),
        ({"transport": {"error_beta": 0.5}}, "transport.error_beta: DeepSpeed 0.19."),
        ({"transport": {"error_reset_steps": 8}}, "transport.error_reset_steps: DeepSpeed 0.19."),
        (
            {"partition": "zero2", "transport": {"weights": "int8"}},
            "transport.weights: DeepSpeed quantizes with ZeRO-3 alone",
        ),
        (
            {"transport": "zeropp", "model": {"hidden": 96}},
            "transport.weights: DeepSpeed's qwZ needs shards of whole eights, which a width of 96",
        ),
        (
            {"transport": {"gradients": "int4", "sync": "int4"}, "ranks": 4},
            "transport.gradients: DeepSpeed's qgZ needs two nodes, and 4 ranks are one",
        ),
        (
            {"transport": {"gradients": "int4", "sync": "int4"}, "model": {"vocabulary": 257}},
            "transport.gradients: DeepSpeed's qgZ makes 257 groups of a 257 x 128 matrix",
        ),
    ],
)
def test_what_deepspeed_lacks_is_named(fields: dict[str, Any], words: str) -> None:
    """Each option that it lacks is one fault, at the field, that says so."""
    (fault,) = faults_of("deepspeed", **fields)

    assert fault.startswith(words)
    assert "; " in fault


@pytest.mark.parametrize(
    ("degrees", "faulty"),
    [
        ((8, 8, 8, 8), []),
        ((8, 4, 8, 8), []),
        ((8, 1, 8, 8), []),
        ((8, 8, 1, 8), []),
        ((4, 2, 4, 4), []),
        ((2, 2, 2, 2), []),
        ((1, 1, 1, 1), ["partition"]),
        ((1, 1, 8, 8), ["partition"]),
        ((4, 4, 4, 8), ["partition"]),
        ((8, 8, 4, 8), ["partition"]),
        ((2, 2, 4, 8), ["partition"]),
    ],
)
def test_fsdp2_keeps_weights_and_optimizer_at_one_degree(
    degrees: tuple[int, int, int, int], faulty: list[str]
) -> None:
    """The backward copy may be at any divisor of it, gradients there or whole; else a fault."""
    names = Partition.model_fields
    faults = faults_of("fsdp2", partition=dict(zip(names, degrees, strict=True)))

    assert [fault.split(":")[0] for fault in faults] == faulty


def test_one_rank_is_enough_for_fsdp2() -> None:
    """On one rank every row is whole, and FSDP2 shards nothing."""
    assert faults_of("fsdp2", ranks=1, partition="ddp") == []


def test_fsdp2_has_no_quantized_transport() -> None:
    """Every format but the full one is a fault of its own."""
    faults = faults_of("fsdp2", transport="sdp4bit")

    assert [fault.split(":")[0] for fault in faults] == [
        "transport.weights",
        "transport.gradients",
        "transport.sync",
        "transport.hadamard",
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("block_size", 64, "FSDP2 has no quantized transport, so that 64 would change nothing"),
        ("error_beta", 0.5, "FSDP2 has no quantized transport, so that 0.5 would change nothing"),
        ("error_reset_steps", 8, "FSDP2 has no quantized transport, so that 8 would change nothin"),
        ("reuse_secondary", True, "FSDP2 gathers from its shards at rest in every micro-batch; "),
    ],
)
def test_what_fsdp2_would_ignore_is_named(name: str, value: float, words: str) -> None:
    """A setting that would change nothing is a fault: a comparison would rest on it."""
    (fault,) = faults_of("fsdp2", partition="zeropp", transport={name: value})

    assert fault.startswith(f"transport.{name}: {words}")
    assert fault.endswith(", or use engine ours")


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp2"])
def test_every_setting_of_the_transport_is_used_or_refused(engine: str) -> None:
    """Alone changed from its default, each is a fault, but for what the engine itself does.

    After its first gather of a train step, DeepSpeed takes weights from the backward copy; its
    INT8 gathers of weights are qwZ.
    """
    changed: dict[str, object] = {
        "block_size": 512,
        "error_feedback": True,
        "error_beta": 0.5,
        "error_reset_steps": 2,
        "hadamard": True,
        "reuse_secondary": True,
    }
    changed |= dict.fromkeys(["weights", "gradients", "sync", "refresh"], "int8")
    used = {"deepspeed": ["weights", "reuse_secondary"], "fsdp2": []}

    faultless = [
        name
        for name in Transport.model_fields
        if not faults_of(engine, partition="zeropp", transport={name: changed[name]})
    ]

    assert faultless == used[engine]
