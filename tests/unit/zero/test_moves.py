"""Which algorithm a reduction is priced with: that which the engine takes."""

from typing import Any

import pytest

from configs.training import TrainingExperiment
from tasks.zero.cost_model import move_costs
from tasks.zero.costs.moves import MoveCosts


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
    """Its pieces are added in float32; only sums of that type are the backend's."""
    length = 32 * 10**7
    inside = {"forward": 1, "backward": 1, "gradients": 8, "optimizer": 32}
    ours, backends = costs(partition=inside), costs(partition=inside, engine="fsdp2")

    assert ours.reduction(length).move_s != backends.reduction(length).move_s
    assert ours.sync(length).move_s == backends.sync(length).move_s
