"""Routes: the process groups over which shards change their degree, and collectives of bytes.

A route joins the ranks of one hop of a chain. Payloads are rows of bytes, whatever they mean, so
that every backend carries every format; piece k of a shard is row k.
"""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from configs.sharding import Partition
from configs.topology import CLUSTER, Topology
from tasks.zero.layout import Chain, Hop

# The same under two names; the older one warns where there is the newer one (torch 2.13).
_gather_flat = (
    dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
)
_reduce_flat = (
    dist.reduce_scatter_single
    if hasattr(dist, "reduce_scatter_single")
    else dist.reduce_scatter_tensor
)


@dataclass(frozen=True)
class Route:
    """One hop, as one rank sees it, and the process group for it.

    Attributes:
        group: Of the ranks of the hop, in ascending order.
        num_ranks: n of them.
        level: Of the machine: the innermost that holds all of them.
        is_direct: Whether gathered pieces go straight from each rank to each other one, and not
            round a ring by the backend.
        is_flat: Whether it joins nodes, and several ranks of each: what goes straight from each to
            each then comes into a node once for every rank of it that wants it.
        order: Which piece of the inner degree's shard is whose, shape (n,), int64; None where rank
            k of the group has piece k.
    """

    group: dist.ProcessGroup
    num_ranks: int
    level: str
    is_direct: bool
    is_flat: bool
    order: Tensor | None

    @property
    def is_inside(self) -> bool:
        """Whether all ranks are of one node."""
        return self.level != CLUSTER

    def gather(self, piece: Tensor, into: Tensor) -> None:
        """Collect everybody's piece.

        Args:
            piece: This rank's; contiguous.
            into: All of them in the order of the shard, contiguous, n times as large.
        """
        rows = into.view(self.num_ranks, -1)
        if self.is_direct:
            self._gather_directly(piece.view(-1), rows)
            return
        received = rows if self.order is None else torch.empty_like(rows)
        _gather_flat(received.view(-1), piece.view(-1), group=self.group)
        if self.order is not None:
            rows.index_copy_(0, self.order, received)

    def exchange(self, pieces: Tensor) -> Tensor:
        """Send every rank its piece.

        Args:
            pieces: In the order of the shard, shape (n, b); contiguous.

        Returns:
            What the ranks, in ascending order, sent for this rank's piece, shape (n, b).
        """
        rows = self._by_rank(pieces)
        received = torch.empty_like(rows)
        dist.all_to_all_single(received, rows, group=self.group)
        return received

    def reduce(self, pieces: Tensor) -> Tensor:
        """Return the sum of everybody's values for this rank's piece, made by the backend.

        Args:
            pieces: In the order of the shard, shape (n, m), of a floating type; contiguous.
        """
        rows = self._by_rank(pieces)
        total = torch.empty_like(rows[0])
        _reduce_flat(total, rows.view(-1), group=self.group)
        return total

    def _gather_directly(self, piece: Tensor, rows: Tensor) -> None:
        """Receive all pieces where they belong: one message each, and no copy."""
        places = list(range(self.num_ranks)) if self.order is None else self.order.tolist()
        mine = self.group.rank()
        rows[places[mine]] = piece
        works = []
        for distance in range(1, self.num_ranks):
            sender, receiver = (
                (mine - distance) % self.num_ranks,
                (mine + distance) % self.num_ranks,
            )
            works.append(dist.irecv(rows[places[sender]], group=self.group, group_src=sender))
            works.append(dist.isend(piece, group=self.group, group_dst=receiver))
        for work in works:
            if work is not None:
                work.wait()

    def _by_rank(self, pieces: Tensor) -> Tensor:
        return pieces if self.order is None else pieces.index_select(0, self.order)


class Routes:
    """The routes of a chain that one lane takes; all ranks make them at the same time.

    Args:
        topology: The machine.
        chain: The degrees.
        device: Of the payloads.
        hops: Pairs of degrees, the lower one first; the higher one is of the chain, or N.
        timeout: After which a rank is taken for lost; None for the backend's own.
    """

    def __init__(
        self,
        topology: Topology,
        chain: Chain,
        device: torch.device,
        *,
        hops: Collection[tuple[int, int]],
        timeout: timedelta | None = None,
    ) -> None:
        self._timeout = timeout
        self._topology, self._chain, self._device = topology, chain, device
        self._rank = dist.get_rank()
        # In one order on all ranks: each group of each route is made by all of them together.
        self._routes = {(inner, outer): self._make(inner, outer) for inner, outer in sorted(hops)}

    def between(self, inner: int, outer: int) -> Route:
        """Return the route of one hop.

        Args:
            inner: The lower degree.
            outer: The higher one.
        """
        return self._routes[inner, outer]

    def close(self) -> None:
        """Give the process groups back."""
        for route in self._routes.values():
            dist.destroy_process_group(route.group)
        self._routes.clear()

    def _make(self, inner: int, outer: int) -> Route:
        mine = self._chain.group(self._rank, inner, outer)
        # All ranks make all groups, also those of others: so they agree on the groups' names.
        groups = {}
        for block in range(0, self._chain.num_ranks, outer):
            for first in range(block, block + inner):
                ranks = self._chain.group(first, inner, outer)
                groups[ranks] = dist.new_group(list(ranks), timeout=self._timeout)
        level = self._topology.level_of(mine[0], mine[-1])
        # A ring waits for n - 1 messages one after the other, a direct gather for one; but where
        # several ranks share a node, it would bring each piece into the node as many times.
        is_flat = level == CLUSTER and inner < self._topology.ranks_per_node
        is_direct = self._device.type == "cpu" and not is_flat
        order = None
        if outer in self._chain.degrees:
            order = _order(self._chain.hop(self._rank, inner, outer), self._device)
        return Route(groups[mine], len(mine), level, is_direct, is_flat, order)


def gather_hops(partition: Partition, chain: Chain, node: int) -> set[tuple[int, int]]:
    """Return the hops of all gathers of a partition: of weights, for either pass, and of updates.

    Args:
        partition: Over how many ranks each state is split.
        chain: Its degrees.
        node: Ranks of a node.
    """
    forward, backward = partition.forward, partition.backward
    stops = [
        chain.stops(1, forward, at=(backward, node)),
        chain.stops(1, backward, at=(node,)),
        chain.stops(forward, partition.optimizer, at=(node,)),
    ]
    return _pairs(stops)


def reduction_hops(partition: Partition, chain: Chain, node: int) -> set[tuple[int, int]]:
    """Return the hops of all reductions of a partition: of gradients, their sums, and scalars.

    Args:
        partition: Over how many ranks each state is split.
        chain: Its degrees.
        node: Ranks of a node.
    """
    gradients, optimizer = partition.gradients, partition.optimizer
    stops = [
        chain.stops(1, gradients, at=(node,)),
        chain.stops(gradients, optimizer, at=(node,)),
        (optimizer, chain.num_ranks),
        (1, chain.num_ranks),
    ]
    return _pairs(stops)


def all_hops(chain: Chain, node: int, *, replicas: bool) -> set[tuple[int, int]]:
    """Return the hops of all conversions between degrees of a chain.

    Args:
        chain: The degrees.
        node: Ranks of a node.
        replicas: Whether also between the replicas of shards, and between all ranks.
    """
    degrees = (1, *chain.degrees)
    pairs = itertools.combinations(degrees, 2)
    found = {
        (inner, outer)
        for inner, outer in pairs
        if node not in chain.degrees or not inner < node < outer
    }
    if replicas:
        found |= _pairs([(degree, chain.num_ranks) for degree in degrees])
    return found


def _pairs(stops: Iterable[tuple[int, ...]]) -> set[tuple[int, int]]:
    """Return the hops between stops; where a conversion ends at once, there is none."""
    return {pair for some in stops for pair in itertools.pairwise(some) if pair[0] < pair[1]}


def _order(hop: Hop, device: torch.device) -> Tensor | None:
    if hop.order == tuple(range(len(hop.order))):
        return None
    return torch.tensor(hop.order, device=device)
