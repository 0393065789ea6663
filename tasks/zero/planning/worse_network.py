"""What a plan takes on a worse network: how far its choice depends on links nobody has measured.

Worse are the two outermost levels that a job crosses, for one node they are inside it: each has
``SHARE`` of its bandwidth, and each message takes ``LATENCY_US`` more. That is a choice, about what
collectives miss of the peaks: 20 us a message is what Calculon (Isaev et al., SC23) assumes of a
NIC; half of the bandwidth is more than Frontier has if the one calibration of docs/frontier.md is
right. It is no prediction of any machine.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from configs.topology import CLUSTER, Level, Link, Topology
from configs.training import TrainingExperiment
from tasks.zero.costs.links import Network
from tasks.zero.planning.candidates import Candidates
from tasks.zero.planning.clock import Clock
from tasks.zero.planning.space import Ints, Partitions, Passes

SHARE = 0.5
"""Of the bandwidth that a link has in the machine's file, its efficiency included."""
LATENCY_US = 20.0
"""More for each message, microseconds."""
_MOST_LEVELS = 2

_T = TypeVar("_T", bound=Hashable)


def crossed_levels(topology: Topology, num_ranks: int) -> tuple[str, ...]:
    """Name the levels whose links join the ranks of a job.

    Args:
        topology: The machine.
        num_ranks: N.

    Returns:
        From the innermost; none for one rank.
    """
    network = Network(topology, num_ranks)
    return tuple(network.levels[index] for index, _ in network.crossed(1, num_ranks))


def worse_levels(topology: Topology, num_ranks: int) -> tuple[str, ...]:
    """Name the levels that are worse on the worse network.

    Args:
        topology: The machine.
        num_ranks: N.

    Returns:
        The two outermost that the job crosses, or the only one; none for one rank.
    """
    return crossed_levels(topology, num_ranks)[-_MOST_LEVELS:]


def worse_network(topology: Topology, num_ranks: int) -> Topology:
    """Return a machine with a worse network.

    Args:
        topology: The machine.
        num_ranks: N.
    """
    worse = worse_levels(topology, num_ranks)

    def level(one: Level) -> Level:
        return one.model_copy(update={"link": _worse(one.link)}) if one.name in worse else one

    network = _worse(topology.network) if CLUSTER in worse else topology.network
    levels = tuple(level(one) for one in topology.levels)
    return topology.model_copy(update={"levels": levels, "network": network})


def worse_steps(trainings: Sequence[TrainingExperiment]) -> list[float]:
    """Time trainings on the worse network of their machine.

    Args:
        trainings: They differ in partition, formats and passes only; at least one.

    Returns:
        Seconds of a train step, in the same order.
    """
    base = trainings[0]
    topology = worse_network(base.topology, base.ranks)
    partitions, partition = _numbered([one.degrees for one in trainings])
    transports, transport = _numbered([one.transport for one in trainings])
    passes, way = _numbered(
        [
            Passes(one.micro_batch, one.accumulation, one.recompute, one.prefetch)
            for one in trainings
        ]
    )
    columns = np.array([list(one.model_dump().values()) for one in partitions], dtype=np.int64)
    clock = Clock(
        base.model_copy(update={"topology": topology}), Partitions(*columns.T), transports, passes
    )
    found = clock.timed(Candidates(way, partition, transport, np.zeros(len(trainings))))
    return [float(step_s) for step_s in found]


def _worse(link: Link | None) -> Link | None:
    if link is None:
        return None
    update = {"gb_per_s": SHARE * link.gb_per_s, "latency_us": link.latency_us + LATENCY_US}
    return link.model_copy(update=update)


def _numbered(every: Sequence[_T]) -> tuple[list[_T], Ints]:
    """List what is distinct, and which one each is."""
    numbers = {one: number for number, one in enumerate(dict.fromkeys(every))}
    return list(numbers), np.array([numbers[one] for one in every], dtype=np.int64)
