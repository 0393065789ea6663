"""Which algorithm a reduction is priced with, and which passes: those that the engine takes."""

from typing import Any

import pytest

from configs.topology import load_topology
from configs.training import TrainingExperiment
from tasks.zero.cost_model import move_costs
from tasks.zero.costs.moves import MoveCosts
from tests.unit.zero.cost_machines import machine

LENGTH = 32 * 10**7
DEVICE = {
    "memory_gb_per_s": 1000.0,
    "quantize_gb_per_s": 400.0,
    "quantize_us": 50.0,
    "rates": {"bfloat16": [{"gflops": 1.0, "tflops": 1.0}]},
}
TOUCHED_S = 0.8e12
"""Bytes a second of copies on that device."""


def costs(**fields: Any) -> MoveCosts:
    """Return what prices the collectives of a training in bfloat16 on four nodes of eight."""
    base = {
        "kind": "training",
        "model": "gpt-20b",
        "topology": "dgx-h100",
        "ranks": 32,
        "dtype": "bfloat16",
        "partition": "zero3",
    }
    return move_costs(TrainingExperiment.model_validate(base | fields))


@pytest.mark.parametrize("wire", ["full", "bfloat16"])
def test_a_flat_reduction_between_nodes_is_the_backends(wire: str) -> None:
    """In the type on the wire, as FSDP2 has it: an exchange would take several times as long."""
    length = 32 * 10**7
    ours = costs(transport={"sync": wire}).reduction(length)
    exchanged = costs(transport={"sync": "int8"}).reduction(length)

    assert ours.move_s == costs(engine="fsdp2").reduction(length).move_s
    assert ours.move_s < exchanged.move_s  # of half the bytes


def test_a_reduction_inside_a_node_is_an_exchange() -> None:
    """Its pieces are added in float32; only sums of that type are the backend's.

    Behind one switch a ring has as many messages and bytes; but the device adds the pieces itself.
    """
    length = 32 * 10**7
    inside = {"forward": 1, "backward": 1, "gradients": 8, "optimizer": 32}
    ours, backends = costs(partition=inside), costs(partition=inside, engine="fsdp2")

    assert ours.reduction(length).move_s == backends.reduction(length).move_s
    assert ours.reduction(length).decode_s > backends.reduction(length).decode_s
    assert ours.sync(length).move_s == backends.sync(length).move_s


def coding_s(**switches: bool) -> float:
    """Return what a device works for an INT4 reduction inside a node, on bfloat16."""
    found = costs(
        topology=machine(device=DEVICE),
        ranks=4,
        partition="zero3",
        transport={"gradients": "int4"} | switches,
    )
    return found.reduction(LENGTH).coding_s


def quantizing_s(*bytes_of_calls: float) -> float:
    """Return what calls of the quantizers take."""
    return sum(50e-6 + one / 0.4e12 for one in bytes_of_calls)


def test_error_feedback_has_its_passes() -> None:
    """The error is read twice and written once, what is left is looked at; all by hand.

    Of LENGTH values: INT4 with scales is 33/64 bytes of each, an INT8 error 65/64.
    """
    packed, error = LENGTH * 33 / 64, LENGTH * 65 / 64
    exact = 4 * LENGTH

    more_s = coding_s(error_feedback=True) - coding_s()

    calls = quantizing_s(error + exact, error + exact, exact + error, exact + packed)
    wider_s = (4 - 2) * LENGTH / 0.4e12  # it is quantized from float32
    # error += values; lost = sum - left; lost *= beta; lost += (1 - beta) error
    sums_s = LENGTH * ((4 + 2 + 4) + 12 + 8 + 12) / TOUCHED_S
    assert more_s == pytest.approx(calls + wider_s + sums_s, rel=1e-6)


def test_smoothing_has_its_passes() -> None:
    """One before packing, from bfloat16 to float32; one of the sum, and a copy of it."""
    more_s = coding_s(hadamard=True) - coding_s()

    before_s = quantizing_s((2 + 4) * LENGTH) + (4 - 2) * LENGTH / 0.4e12
    after_s = quantizing_s(8 * LENGTH / 4) + 8 * LENGTH / 4 / TOUCHED_S
    assert more_s == pytest.approx(before_s + after_s, rel=1e-6)


def test_replicas_are_summed_with_both_switches() -> None:
    """Either half of the sum over replicas is quantized: with either switch each is dearer."""

    def halves(**switches: bool) -> tuple[float, ...]:
        found = costs(
            topology=machine(device=DEVICE, network={"gb_per_s": 5.0}),
            ranks=8,
            partition="hsdp",
            transport={"sync": "int4"} | switches,
        )
        return tuple(one.coding_s for one in found.replicas(LENGTH))

    plain = halves()

    assert len(plain) == 2
    for switches in ({"error_feedback": True}, {"hadamard": True}):
        assert all(more > less for more, less in zip(halves(**switches), plain, strict=True))


def test_what_is_not_quantized_pays_for_no_switch() -> None:
    """Gathers are neither smoothed nor fed back, nor is a sum in full."""
    plain, both = (
        costs(transport={"weights": "int8"} | switches).of_unit(LENGTH)
        for switches in ({}, {"error_feedback": True, "hadamard": True})
    )

    assert both == plain


def test_an_exchange_waits_for_each_message_where_gathers_are_rings() -> None:
    """INT4 sums over the rails of four nodes: three messages of 20 us, where gloo has one."""
    rails = {"forward": 8, "backward": 8, "gradients": 8, "optimizer": 32}

    def sync_s(algorithm: str, latency_us: float) -> float:
        raw = load_topology("dgx-h100").model_dump()
        raw["network"] |= {"algorithm": algorithm, "latency_us": latency_us}
        found = costs(topology=raw, partition=rails, transport={"sync": "int4"})
        return found.sync(LENGTH).move_s

    for algorithm, messages in (("ring", 3), ("recursive", 3), ("direct", 1)):
        waited = sync_s(algorithm, 20.0) - sync_s(algorithm, 0.0)
        assert waited == pytest.approx(messages * 20e-6, rel=1e-6)
