"""How long one hop takes, and how long it keeps which link of the machine.

Symbols: n ranks of the group, b bytes of everybody's part, so that a rank receives (n - 1) b.

- Ring, in the order of the ranks: n - 1 messages one after the other. All (n - 1) b come to a rank
  from its neighbour: over the network to one rank of a node in each ring, else over the links
  inside. Rings of one node divide its network links evenly among them, as several channels do, so
  that one flat ring has all of them: (n - 1) b go into the node once.
- Direct: one message to each other rank at once. A rank receives b from each, over the link that
  joins the two: from other nodes once for each rank that wants it.
- Exchange: each rank has another part for each other one, so that nothing can be passed on: n - 1
  messages straight from each to each, whatever the links' algorithm for gathers is. Where that is
  ``direct`` (gloo), the messages go at once, as there. Else a rank sends and receives them one
  after the other, and each costs a latency: (n - 1) alpha + (n - 1) b / beta, as Thakur et al. have
  it for pairwise exchange. In LogGP, (n - 1) o + L, messages to distinct partners overlap in
  flight, and only the sender's overhead o of each adds up; it is part of alpha, and measured with
  it (``calibrate_fit.message_latency``), so alpha per message is the upper end.
- Recursive: log2 n messages, from the farthest partner to the nearest (as in PCCL, arXiv
  2504.18658): level by level, what others have brought is passed on.

All groups of a machine do the same at the same time, so that ranks that share a link divide it.

References:
    Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH",
    IJHPCA 19 (2005): all-to-all.
    Alexandrov et al., "LogGP: Incorporating Long Messages into the LogP Model", SPAA 1995.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from configs.topology import CLUSTER, Link, Topology

Algorithm = Literal["ring", "recursive", "direct", "exchange"]

_GIGA = 1e9
_MICRO = 1e-6


@dataclass(frozen=True)
class HopCost:
    """What one hop takes.

    Attributes:
        seconds: From its begin to its end, on idle links.
        occupied_s: How long it keeps the link of each level of the machine, by level from the
            innermost; others that use it wait so long.
        lost_s: Computing time of the device that it takes away meanwhile.
    """

    seconds: float
    occupied_s: tuple[float, ...]
    lost_s: float


@dataclass(frozen=True)
class _Crossing:
    """What a hop puts on one level's link.

    Attributes:
        level: Index of the level.
        link: The link.
        messages: One after the other, or those that a device handles.
        transfer_s: Time of the bytes.
    """

    level: int
    link: Link
    messages: float
    transfer_s: float

    @property
    def latency_s(self) -> float:
        return self.link.latency_us * _MICRO

    @property
    def work_s(self) -> float:
        """What it takes of the device's own time."""
        return self.link.interference * self.transfer_s

    @property
    def latency_work_s(self) -> float:
        """What its messages take of the device's own time, besides."""
        return self.link.interference * self.messages * self.latency_s


@dataclass(frozen=True)
class Network:
    """The links of a machine, as a job of N ranks uses them.

    Attributes:
        topology: The machine; a level that a hop crosses must have its link.
        num_ranks: N.
    """

    topology: Topology
    num_ranks: int

    @cached_property
    def levels(self) -> list[str]:
        """Names of all levels, from the innermost to the cluster."""
        return self.topology.level_names()

    @cached_property
    def _sizes(self) -> list[int]:
        """Ranks of the job in one piece of each level."""
        sizes = [min(level.ranks, self.num_ranks) for level in self.topology.levels]
        return [*sizes, self.num_ranks]

    def crossed(self, inner: int, outer: int) -> list[tuple[int, float]]:
        """List the levels whose links join the ranks of a group.

        Degrees that do not nest with the levels make groups that differ; this is the widest one.

        Args:
            inner: The group's ranks lie so far apart.
            outer: Degree within which they are.

        Returns:
            Index of the level, and how many ranks, or groups of the level before, it joins.
        """
        found, before = [], 1.0
        for index, size in enumerate(self._sizes):
            is_inside = size % outer == 0
            n = outer / inner
            within = n if is_inside else max(1.0, min(size / inner, n / 2))
            if within > before:
                found.append((index, within / before))
                before = within
            if is_inside:
                break
        return found

    def hop(
        self, inner: int, outer: int, received_bytes: float, algorithm: Algorithm | None = None
    ) -> HopCost:
        """Return what a hop takes.

        Args:
            inner: The lower degree.
            outer: The higher one.
            received_bytes: Bytes that each rank receives.
            algorithm: Of the collective. Default: of a gather, that of the outermost link that it
                crosses; ``direct`` there means what the engine does on CPUs, whose flat gathers
                over nodes of several ranks are rings.
        """
        where = self.crossed(inner, outer)
        if not where:
            return HopCost(0.0, (0.0,) * len(self.levels), 0.0)
        is_across = where[-1][0] == len(self.levels) - 1
        is_flat = is_across and inner < self.topology.ranks_per_node
        if algorithm is None:
            algorithm = self._link(where[-1][0]).algorithm
            if algorithm == "direct" and is_flat:
                algorithm = "ring"
        match algorithm:
            case "ring":
                return self._ring(where, outer // inner, received_bytes)
            case "direct" | "exchange":
                crossings = self._by_level(where, outer // inner, received_bytes, passes_on=False)
                # Links go on at once, but what a device does itself comes one after the other.
                transfer = max(
                    *(one.transfer_s for one in crossings), sum(one.work_s for one in crossings)
                )
                at_once, in_turn = crossings, list[_Crossing]()
                if algorithm == "exchange":
                    at_once = [one for one in crossings if one.link.algorithm == "direct"]
                    in_turn = [one for one in crossings if one.link.algorithm != "direct"]
                latency = max(
                    max((one.latency_s for one in at_once), default=0.0),
                    sum(one.latency_work_s for one in at_once),
                )
                latency += sum(one.messages * one.latency_s for one in in_turn)
                return self._cost(crossings, transfer + latency)
            case "recursive":
                crossings = self._by_level(where, outer // inner, received_bytes, passes_on=True)
                seconds = sum(one.transfer_s + one.messages * one.latency_s for one in crossings)
                return self._cost(crossings, seconds)

    def scalars_s(self) -> float:
        """Return the time to sum a few numbers over all ranks: there and back in a tree."""
        return sum(
            2 * math.ceil(math.log2(ranks)) * link.latency_us * _MICRO
            for index, ranks in self.crossed(1, self.num_ranks)
            if (link := self.topology.link(self.levels[index])) is not None
        )

    def algorithm(self, level: str) -> Algorithm:
        """Return the algorithm of a level's gathers, and of sums by the backend."""
        return self._link(self.levels.index(level)).algorithm

    def _ring(self, where: list[tuple[int, float]], n: int, received_bytes: float) -> HopCost:
        """Everything comes over the edge to the neighbour; the slowest edge sets the pace."""
        crossings = []
        for index, joined in where:
            # Of a rank's edges, as many cross this level as groups of it have an edge to the next.
            edges = 1.0
            for inside, number in where:
                if inside < index:
                    edges /= number
            link = self._link(index)
            sharing = min(link.shared_by, self.num_ranks) * edges
            if self.levels[index] != CLUSTER:
                sharing = max(1.0, sharing)
            transfer_s = received_bytes * sharing / self._bandwidth(index, joined)
            crossings.append(_Crossing(index, link, (n - 1) * edges, transfer_s))
        latency = (n - 1) * max(one.latency_s for one in crossings)
        return self._cost(crossings, latency + max(one.transfer_s for one in crossings))

    def _by_level(
        self,
        where: list[tuple[int, float]],
        n: int,
        received_bytes: float,
        *,
        passes_on: bool,
    ) -> list[_Crossing]:
        """Divide what a rank receives by the links over which it comes.

        With passing on, a part comes over the network to one rank of a node, which passes it on to
        the others; so a rank has inside the more to receive the more it reaches outside.
        """
        part = received_bytes / (n - 1)
        crossings, inside = [], 1.0
        outside = float(n)
        for index, ranks in where:
            outside /= ranks
            parts = (ranks - 1) * (outside if passes_on else inside)
            inside *= ranks
            link = self._link(index)
            sharing = min(link.shared_by, self.num_ranks)
            transfer_s = part * parts * sharing / self._bandwidth(index, ranks)
            messages = math.log2(ranks) if passes_on else parts
            crossings.append(_Crossing(index, link, messages, transfer_s))
        return crossings

    def _cost(self, crossings: list[_Crossing], seconds: float) -> HopCost:
        occupied, lost = [0.0] * len(self.levels), 0.0
        for one in crossings:
            occupied[one.level] = one.transfer_s
            lost += one.work_s + one.latency_work_s
        return HopCost(seconds, tuple(occupied), min(lost, seconds))

    def _link(self, index: int) -> Link:
        link = self.topology.link(self.levels[index])
        if link is None:
            raise ValueError(f"no link of {self.levels[index]}; cost_model.machine_faults says so")
        return link

    def _bandwidth(self, index: int, joined: float) -> float:
        """Return the bandwidth of a level's links, of a mesh that of the links which are used.

        Args:
            index: Of the level.
            joined: How many of the level before, at least 1, a group has in one of it.
        """
        link = self._link(index)
        bandwidth = link.gb_per_s * _GIGA * link.efficiency
        if not link.mesh or self.levels[index] == CLUSTER:
            return bandwidth
        levels = self.topology.levels
        most = levels[index].ranks / (levels[index - 1].ranks if index else 1)
        return bandwidth * (joined - 1) / (most - 1)
