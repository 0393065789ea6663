"""Links, level by level: what the engine's own collectives reach on them.

At each level all its groups are active at once, as in training, and every rank sends and receives.
A collective counts with the thread or the stream that it runs on, but not with what is done to the
bytes before and after: quantizers and sums are measured by themselves.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist

from configs.topology import CLUSTER, Topology
from tasks.zero.calibrate_fit import (
    Beside,
    Line,
    MeasuredLink,
    Sample,
    beside_computing,
    fit_line,
    message_latency,
    num_sharers,
)
from tasks.zero.calibrate_times import Clock
from tasks.zero.lanes import Exposed, make_lane
from tasks.zero.layout import Chain
from tasks.zero.routes import Routes

_SMALLEST, _STEP = 2**12, 4
_LARGEST = {"cpu": 2**24, "cuda": 2**28}
"""Bytes that a rank sends to each other one."""
_BEYOND_CACHES, _MOST_PAYLOADS = {"cpu": 2**24, "cuda": 2**27}, 64
_LONGEST_S = 0.25
"""A collective that takes longer is the last one to be measured."""
_SMALL, _LARGE_S, _NUM_PIECES = 2**14, 0.005, 8
"""Collectives beside which is computed: bytes of a small one, time of a large one, how many."""
Compute = Callable[[], object]
Begin = Callable[[], Callable[[], None]]


@dataclass(frozen=True)
class Hop:
    """What is measured of a level: the conversion between two degrees of shards.

    Attributes:
        level: Of the machine.
        inner: The lower degree.
        outer: The higher one.
    """

    level: str
    inner: int
    outer: int

    @property
    def num_ranks(self) -> int:
        """n: ranks of a group."""
        return self.outer // self.inner


def hops_of(topology: Topology, num_ranks: int) -> list[Hop]:
    """Return a hop for each level on which ranks can meet, from the innermost.

    Args:
        topology: The machine.
        num_ranks: N.
    """
    sizes = [(level.name, min(level.ranks, num_ranks)) for level in topology.levels]
    inner, hops = 1, []
    for level, outer in [*sizes, (CLUSTER, num_ranks)]:
        if outer > inner:
            hops.append(Hop(level, inner, outer))
            inner = outer
    return hops


class LinkMeter:
    """Measures the links of a machine; made, and used, by all ranks at the same time.

    Args:
        topology: The machine.
        device: Of the payloads.
        clock: Times.
        timeout: After which a rank is taken for lost.
    """

    def __init__(
        self, topology: Topology, device: torch.device, clock: Clock, *, timeout: timedelta
    ) -> None:
        self._device, self._clock = device, clock
        num_ranks = dist.get_world_size()
        self._per_node = topology.node_ranks(num_ranks)
        self.hops = hops_of(topology, num_ranks)
        chain = Chain(num_ranks, tuple(hop.outer for hop in self.hops))
        hops = [(hop.inner, hop.outer) for hop in self.hops]
        self._routes = [
            Routes(topology, chain, device, hops=hops, timeout=timeout) for _ in range(2)
        ]
        self._lanes = [make_lane(device, name, Exposed()) for name in ("gathers", "reductions")]

    def close(self) -> None:
        """End what runs in the background."""
        for lane, routes in zip(self._lanes, self._routes, strict=True):
            if lane.close():
                routes.close()

    def measure(self, hop: Hop, compute: Compute) -> MeasuredLink:
        """Measure what joins the ranks of a level.

        Args:
            hop: One of ``hops``.
            compute: A piece of computing, for what collectives take of it.
        """
        alone = fit_line(list(self._samples(hop)))
        sharers = 1
        if hop.level == CLUSTER and self._per_node > 1:
            one = fit_line(list(self._samples(hop, is_alone=True)))
            sharers = num_sharers(one, alone, self._per_node)
        large = max(4 * _SMALL, int(alone.bytes_per_s * _LARGE_S) // (hop.num_ranks - 1))
        line, interference = beside_computing(
            alone,
            self._beside(hop, _SMALL, compute),
            self._beside(hop, min(large, _LARGEST[self._device.type]), compute),
        )
        latency_s = message_latency(
            line,
            num_ranks=hop.num_ranks,
            interference=interference,
            is_ring=self._device.type == "cuda",
        )
        return MeasuredLink(Line(latency_s, line.bytes_per_s), sharers, interference)

    def _samples(self, hop: Hop, *, is_alone: bool = False) -> Iterator[Sample]:
        """Yield times of gathers and exchanges, from small to large; of both the mean counts."""
        takes_part = not is_alone or dist.get_rank() % hop.inner == 0
        num_bytes = _SMALLEST * (_STEP if is_alone else 1)
        for number in itertools.count(1):  # two sizes at least, for a line
            seconds = [
                self._seconds(hop, begin, takes_part=takes_part, is_alone=is_alone)
                for begin in self._collectives(hop, num_bytes)
            ]
            received = (hop.num_ranks - 1) * num_bytes
            yield Sample(received, sum(seconds) / len(seconds))
            is_last = number > 1 and max(seconds) > min(_LONGEST_S, self._clock.least_s)
            if is_last or num_bytes * _STEP > _LARGEST[self._device.type]:
                return
            num_bytes *= _STEP

    def _seconds(self, hop: Hop, begin: Begin, *, takes_part: bool, is_alone: bool) -> float:
        """Return the time of a collective.

        Between nodes the groups of a level share links, not evenly; the ranks of a node wait for
        each other after that, in whatever they do together. So it counts until the last group is
        done.
        """

        def once() -> None:
            begin()()

        seconds = self._clock.mean_s(once, takes_part=takes_part, waits=True)
        if hop.level != CLUSTER or is_alone or self._per_node == 1:
            return seconds
        return max(seconds, self._clock.in_step_s(once))

    def _collectives(self, hop: Hop, num_bytes: int) -> list[Begin]:
        """Return what begins a gather, and an exchange, of so many bytes for each other rank.

        Payloads take turns, so that none is in a cache where a training's would not be.
        """
        shape = (hop.num_ranks, num_bytes)
        num_payloads = -(-_BEYOND_CACHES[self._device.type] // (hop.num_ranks * num_bytes))
        made = [
            torch.zeros(shape, dtype=torch.uint8, device=self._device).fill_(1)
            for _ in range(min(_MOST_PAYLOADS, num_payloads))
        ]
        payloads = itertools.cycle(made)
        piece = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        gathers, reductions = (routes.between(hop.inner, hop.outer) for routes in self._routes)

        def exchange() -> None:
            reductions.exchange(next(payloads))

        def gather() -> None:
            gathers.gather(piece, next(payloads))

        return [
            lambda: self._lanes[0].submit(gather, None),
            lambda: self._lanes[1].submit(exchange, None),
        ]

    def _beside(self, hop: Hop, num_bytes: int, compute: Compute) -> tuple[float, Beside]:
        """Return the bytes that a rank receives in a collective, and what one is beside computing.

        Args:
            hop: Among whom.
            num_bytes: For each other rank.
            compute: What is computed.
        """
        collectives = self._collectives(hop, num_bytes)

        def begin_all() -> list[Callable[[], None]]:
            return [begin() for _ in range(_NUM_PIECES) for begin in collectives]

        found = self._clock.beside(begin_all, compute)
        count = _NUM_PIECES * len(collectives)
        one = Beside(found.work_s / count, found.lost_s / count)
        return (hop.num_ranks - 1) * num_bytes, one
