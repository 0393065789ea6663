"""Links without a switch: fewer ranks have fewer of them."""

import pytest

from configs.faults import faults_in
from configs.topology import Topology, load_topology
from tasks.zero.costs.links import Network

S = 8e9
"""Bytes of a whole vector."""


@pytest.mark.parametrize(
    ("topology", "inner", "outer", "received", "gb_per_s"),
    [
        ("perlmutter", 1, 2, 1 / 2, 100.0),  # the four links between two GPUs
        ("perlmutter", 2, 4, 1 / 2, 100.0),  # again two GPUs, of different pairs
        ("perlmutter", 1, 4, 3 / 4, 300.0),  # all twelve of a GPU
        ("summit", 1, 3, 2 / 3, 100.0),
        ("aurora", 2, 4, 1 / 2, 15 * 0.77),  # one link between two tiles of two GPUs
        ("aurora", 2, 6, 2 / 3, 30 * 0.77),
        ("aurora", 2, 12, 5 / 6, 75 * 0.77),
        ("dgx-a100", 1, 2, 1 / 2, 300 * 0.78),  # behind a switch two have as much as eight
        ("frontier", 1, 2, 1 / 2, 200 * 0.81),
    ],
)
def test_ranks_have_the_links_between_them(
    topology: str, inner: int, outer: int, received: float, gb_per_s: float
) -> None:
    """What each receives comes over the links to those from whom it comes, and no others."""
    machine = load_topology(topology)
    network = Network(machine, 4 * machine.ranks_per_node)

    hop = network.hop(inner, outer, received * S)

    latency_s = sum(  # of those machines that have one
        link.latency_us * 1e-6
        for index, _ in network.crossed(inner, outer)
        if (link := machine.link(network.levels[index]))
    )
    assert hop.seconds - latency_s == pytest.approx(received * S / (gb_per_s * 1e9), rel=1e-3)


@pytest.mark.parametrize(("num_ranks", "gb_per_s"), [(2, 50.0), (3, 100.0)])
def test_a_job_of_fewer_ranks_has_no_links_of_absent_ones(num_ranks: int, gb_per_s: float) -> None:
    """Two of the three GPUs of a socket have two of the four links of each."""
    hop = Network(load_topology("summit"), num_ranks).hop(1, num_ranks, S)

    assert hop.seconds == pytest.approx(S / (gb_per_s * 1e9))


def test_a_ring_over_nodes_has_all_links_of_a_mesh() -> None:
    """Its rings use each of them: nothing inside a node is slower for want of a switch."""
    meshed = load_topology("perlmutter")
    raw = meshed.model_dump()
    raw["levels"][0]["link"]["mesh"] = False

    with_mesh, without = (
        Network(one, 16).hop(1, 16, S) for one in (meshed, Topology.model_validate(raw))
    )

    assert with_mesh == without


def test_a_network_is_no_mesh() -> None:
    """Nodes are joined by switches: the fault says where a mesh can be."""
    raw = {
        "name": "m",
        "levels": [{"name": "node", "ranks": 4, "link": {"gb_per_s": 300, "mesh": True}}],
        "network": {"gb_per_s": 25, "mesh": True},
    }

    (fault,) = faults_in(Topology, raw)

    assert str(fault).startswith("network.mesh: nodes are not joined each with each; ")
