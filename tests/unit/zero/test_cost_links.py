"""Times of single hops, against formulas worked out by hand."""

import pytest

from configs.topology import Topology
from tasks.zero.costs.links import Network

S = 8e9
"""Bytes of a whole vector."""


def network(num_ranks: int = 32, **network_link: object) -> Network:
    """Return nodes of 8 ranks in 4 packages; two ranks share 25 GB/s of network."""
    link = {"gb_per_s": 25.0, "shared_by": 2, "latency_us": 10.0} | network_link
    return Network(
        Topology.model_validate(
            {
                "name": "test",
                "levels": [
                    {"name": "package", "ranks": 2, "link": {"gb_per_s": 200.0}},
                    {
                        "name": "node",
                        "ranks": 8,
                        "link": {"gb_per_s": 50.0, "efficiency": 0.8, "latency_us": 1.0},
                    },
                ],
                "network": link,
            }
        ),
        num_ranks,
    )


def test_a_flat_ring_uses_all_links_of_a_node_once() -> None:
    """31 messages, and 31/32 of the bytes over 100 GB/s into a node, or 40 GB/s inside."""
    fast = network(gb_per_s=4.0).hop(1, 32, S * 31 / 32)
    slow_inside = network().hop(1, 32, S * 31 / 32)

    assert fast.seconds == pytest.approx(31 * 10e-6 + S * 31 / 32 / 16e9)
    assert slow_inside.seconds == pytest.approx(31 * 10e-6 + S * 31 / 32 / 40e9)


def test_rails_share_what_they_share() -> None:
    """Eight groups of four ranks, one in each node: two ranks to 25 GB/s, 3 messages."""
    rail = network().hop(8, 32, S / 8 * 3 / 4)

    assert rail.seconds == pytest.approx(3 * 10e-6 + S / 8 * 3 / 4 / 12.5e9)
    assert rail.occupied_s[:2] == (0.0, 0.0)


def test_few_ranks_do_not_share_with_absent_ones() -> None:
    """A link for 16 ranks is shared by the 8 that there are."""
    assert network(8).hop(2, 8, S).seconds == pytest.approx(3e-6 + S / 40e9)
    many = network(16, shared_by=1000, latency_us=0.0).hop(8, 16, S)
    assert many.seconds == pytest.approx(S * 16 / 25e9)


def test_a_direct_exchange_brings_remote_pieces_to_each_rank() -> None:
    """Of 31 pieces, 1 comes from the package, 6 from the node, 24 over the network; at once."""
    hop = network().hop(1, 32, S * 31 / 32, "direct")

    assert hop.seconds == pytest.approx(10e-6 + S * 24 / 32 / 12.5e9)
    assert hop.occupied_s[0] == pytest.approx(S / 32 / 200e9)
    assert hop.occupied_s[1] == pytest.approx(S * 6 / 32 / 40e9)


@pytest.mark.parametrize("algorithm", ["ring", "recursive"])
def test_messages_of_an_exchange_come_one_after_the_other(algorithm: str) -> None:
    """Of 31, one is inside the package, six at 1 us in the node, 24 at 10 us between nodes."""
    hop = network(algorithm=algorithm).hop(1, 32, S * 31 / 32, "exchange")
    rail = network(algorithm=algorithm).hop(8, 32, S * 3 / 4, "exchange")

    assert hop.seconds == pytest.approx(6e-6 + 24 * 10e-6 + S * 24 / 32 / 12.5e9)
    assert rail.seconds == pytest.approx(3 * 10e-6 + S * 3 / 4 / 12.5e9)


def test_gloo_exchanges_send_all_at_once() -> None:
    """Where a link is direct, the latency is that of one message, and of inner links' besides."""
    direct = network(algorithm="direct")

    assert direct.hop(8, 32, S, "exchange") == direct.hop(8, 32, S, "direct")
    mixed = direct.hop(1, 32, S * 31 / 32, "exchange").seconds
    assert mixed == pytest.approx(10e-6 + 6e-6 + S * 24 / 32 / 12.5e9)


def test_each_message_costs_the_device_what_its_link_does_not_do_itself() -> None:
    """Three messages at once, each half of 10 us of its own time: 15 us, and it computes less."""
    hop = network(algorithm="direct", interference=0.5).hop(8, 32, S, "direct")

    assert hop.seconds == pytest.approx(15e-6 + S / 12.5e9, rel=1e-9)
    assert hop.lost_s == pytest.approx(15e-6 + 0.5 * S / 12.5e9, rel=1e-9)


def test_a_recursive_gather_passes_on() -> None:
    """3 pieces over the network, then 12 in the node, then 16 in the package; log2 n messages."""
    hop = network(algorithm="recursive").hop(1, 32, S * 31 / 32)

    messages = 2 * 10e-6 + 2 * 1e-6
    moved = S / 32 * (3 / 12.5e9 + 12 / 40e9 + 16 / 200e9)
    assert hop.seconds == pytest.approx(messages + moved)


def test_direct_links_gather_as_the_engine_does_on_cpus() -> None:
    """Between single ranks of nodes directly, flat over nodes round a ring."""
    direct = network(algorithm="direct")

    assert direct.hop(8, 32, S).seconds == pytest.approx(10e-6 + S / 12.5e9)
    assert direct.hop(1, 32, S).seconds == network().hop(1, 32, S).seconds


def test_what_moves_nothing_takes_no_time() -> None:
    """A conversion between equal degrees is no hop."""
    assert network().hop(4, 4, 0).seconds == 0


def test_degrees_that_do_not_nest_in_a_node_cross_nodes() -> None:
    """Six neighbours of nodes of eight: some groups are on two nodes, and all wait for those."""
    assert [index for index, _ in network(24).crossed(1, 6)] == [0, 1, 2]
    assert [index for index, _ in network(24).crossed(1, 4)] == [0, 1]
