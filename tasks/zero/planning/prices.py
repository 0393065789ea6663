"""What the collectives of many candidates take: tables of the cost model's own numbers.

All parts of a ``Transfer`` are a fixed time (latencies) and one by element, where lengths are whole
blocks on every rank, as padding makes them. So two lengths tell all of them, and a table has one
row for each pair of degrees and each format, however many candidates share it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from configs.sharding import Partition
from configs.training import TrainingExperiment
from configs.transport import BITS, Transport, Wire
from tasks.zero.costs.links import Algorithm, HopCost, Network
from tasks.zero.costs.moves import MoveCosts, Transfer
from tasks.zero.costs.units import element_bytes
from tasks.zero.planning.space import Floats, Ints, Partitions, quantizes
from tasks.zero.traffic import ElementBytes, Moves

Kind = Literal["forward_gather", "kept_gather", "reduction", "sync", "refresh"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NUM_ENDS = 3
"""Kinds of units: embedding, block, head."""

_FAR = 0.0, 1e9
"""Bytes at which a hop is asked for."""

_Key = tuple[int, int, int]
"""Two degrees, and whether there is a stop at the node."""
_Sums = tuple[Wire, Wire, bool]
"""Formats inside nodes and across, and whether what is quantized is smoothed."""
_Wires = TypeVar("_Wires", bound=Hashable)
"""The formats that a collective uses."""


@dataclass(frozen=True)
class Table:
    """Costs of one kind of collective; columns as in ``as_row``.

    Attributes:
        fixed: Shape (keys, formats, columns), seconds.
        slope: The same, seconds an element.
        key: Which key a partition has, shape (P,).
        wire: Which format a transport has, shape (transports,).
    """

    fixed: Floats
    slope: Floats
    key: Ints
    wire: Ints

    @cached_property
    def demands(self) -> tuple[Floats, Floats]:
        """Fixed times and slopes of what ``bounds`` looks at: lane, device, and each link."""
        return _as_demands(self.fixed), _as_demands(self.slope)

    @cached_property
    def alike(self) -> Ints:
        """The first format that takes the same, shape (keys, formats)."""
        both = np.concatenate([self.fixed, self.slope], axis=-1)
        same = (both[:, :, None] == both[:, None]).all(axis=-1)
        return np.asarray(same.argmax(axis=-1), dtype=np.int64)


def as_row(transfer: Transfer) -> list[float]:
    """Return a transfer as columns: encode, move, decode, lost, and the links by level.

    Args:
        transfer: Of one candidate.
    """
    parts = [transfer.encode_s, transfer.move_s, transfer.decode_s, transfer.lost_s]
    return [*parts, *transfer.occupied_s]


@dataclass(frozen=True)
class Prices:
    """The tables of a search.

    Attributes:
        base: The training: machine, model, type, engine.
        parts: The partitions.
        transports: The formats.
    """

    base: TrainingExperiment
    parts: Partitions
    transports: Sequence[Transport]

    @cached_property
    def tables(self) -> dict[Kind, Table]:
        """The costs by kind."""
        parts, node = self.parts, self.base.topology.node_ranks(self.base.ranks)
        degrees = [parts.forward, parts.backward, parts.gradients, parts.optimizer]
        has_node = np.any([degree == node for degree in degrees], axis=0)
        one = np.ones_like(parts.forward)
        gathers = self._keys(parts.forward, parts.backward, has_node & (node < parts.forward))
        reduction = self._keys(one, parts.gradients, has_node & (node < parts.gradients))
        crosses = (parts.gradients < node) & (node < parts.optimizer)
        sync = self._keys(parts.gradients, parts.optimizer, has_node & crosses)
        crosses = (parts.forward < node) & (node < parts.optimizer)
        refresh = self._keys(parts.forward, parts.optimizer, has_node & crosses)
        return {
            "forward_gather": self._gathers(gathers, "forward_gather"),
            "kept_gather": self._gathers(gathers, "kept_gather"),
            "reduction": self._sums(reduction, "reduction"),
            "sync": self._sums(sync, "sync"),
            "refresh": self._refreshes(refresh),
        }

    @cached_property
    def raw_lengths(self) -> Ints:
        """Elements of the three kinds of units, without padding."""
        model = self.base.model
        return np.array(
            [sum(model.stage_parameters(stage).values()) for stage in (0, 1, model.layers + 1)],
            dtype=np.int64,
        )

    @cached_property
    def block_sizes(self) -> Ints:
        """Elements that shards are a multiple of, by transport."""
        return np.array([one.block_size if quantizes(one) else 1 for one in self.transports])

    def lengths(self, partition: Ints, blocks: Ints | int) -> Floats:
        """Return padded lengths, as ``tasks.zero.layout.padded`` has them.

        Args:
            partition: Numbers of partitions, shape (n,).
            blocks: Elements that shards are a multiple of, shape (n,) or one for all.

        Returns:
            Shape (units, n).
        """
        unit = self.parts.optimizer[partition] * blocks
        padded = -(-self.raw_lengths[:, None] // unit) * unit
        return np.asarray(padded, dtype=np.float64)

    def columns(self, kind: Kind, partition: Ints, transport: Ints, lengths: Floats) -> Floats:
        """Return what a collective of each candidate takes.

        Args:
            kind: Which one.
            partition: Numbers of partitions, shape (n,).
            transport: Numbers of transports, shape (n,).
            lengths: Of the units, shape (units, n).

        Returns:
            Seconds, shape (units, columns, n).
        """
        table = self.tables[kind]
        rows = table.key[partition], table.wire[transport]
        return priced(table.fixed[rows], table.slope[rows], lengths)

    def _keys(self, low: Ints, high: Ints, stops: NDArray[np.bool_]) -> tuple[list[_Key], Ints]:
        """Number the distinct keys; return them, and which one each partition has."""
        most = int(self.parts.optimizer.max()) + 1
        packed, number = np.unique((low * most + high) * 2 + stops, return_inverse=True)
        keys = [(int(one) // 2 // most, int(one) // 2 % most, int(one) % 2) for one in packed]
        return keys, number

    def _gathers(self, keys: tuple[list[_Key], Ints], kind: Kind) -> Table:
        wires = [one.weights for one in self.transports]

        def cost(key: _Key, wire: Wire) -> Callable[[int], Transfer]:
            forward, backward, stops = key
            partition = self._partition(forward, backward, max(forward, 1), stops=stops)
            costs = self._costs(partition, _formats(weights=wire))
            return costs.forward_gather if kind == "forward_gather" else costs.kept_gather

        return self._table(keys, wires, cost)

    def _refreshes(self, keys: tuple[list[_Key], Ints]) -> Table:
        def cost(key: _Key, wire: Wire) -> Callable[[int], Transfer]:
            forward, final, stops = key
            partition = self._partition(forward, forward, final, stops=stops)
            return self._costs(partition, _formats(refresh=wire)).refresh

        return self._table(keys, [one.refresh for one in self.transports], cost)

    def _sums(self, keys: tuple[list[_Key], Ints], kind: Kind) -> Table:
        wires = [(one.gradients, one.sync, one.hadamard) for one in self.transports]

        def cost(key: _Key, wire: _Sums) -> Callable[[int], Transfer]:
            low, high, stops = key
            gradients, final = (high, high) if kind == "reduction" else (low, high)
            partition = _split(self._node if stops else 1, 1, gradients, final)
            formats = _formats(gradients=wire[0], sync=wire[1], hadamard=wire[2])
            costs = self._costs(partition, formats)
            return costs.reduction if kind == "reduction" else costs.sync

        return self._table(keys, wires, cost, is_same=self._same_sums(kind))

    def _same_sums(self, kind: Kind) -> Callable[[_Key, _Sums], Hashable]:
        """Tell formats apart only where they are used: inside nodes, or across."""
        node, num_ranks = self._node, self.base.ranks

        def used(key: _Key, wire: _Sums) -> Hashable:
            low, high, stops = key
            has_replicas = kind == "sync" and high < num_ranks
            inside = low < high and (high <= node or stops)
            across = low < high and high > node
            inside = inside or (has_replicas and num_ranks <= node)
            across = across or (has_replicas and num_ranks > node)
            found = wire[0] if inside else None, wire[1] if across else None
            return *found, wire[2] and not BITS.keys().isdisjoint(found)

        return used

    def _table(
        self,
        keys: tuple[list[_Key], Ints],
        wires: Sequence[_Wires],
        cost: Callable[[_Key, _Wires], Callable[[int], Transfer]],
        is_same: Callable[[_Key, _Wires], Hashable] = lambda _, wire: wire,
    ) -> Table:
        distinct = list(dict.fromkeys(wires))
        found: dict[tuple[_Key, Hashable], int] = {}
        rows: list[list[list[float]]] = []
        numbers = []
        for key in keys[0]:
            for wire in distinct:
                which = key, is_same(key, wire)
                if which not in found:
                    found[which] = len(rows)
                    of_length = cost(key, wire)
                    rows.append([as_row(of_length(length)) for length in self._lengths])
                numbers.append(found[which])
        points = np.array(rows)[numbers].reshape(
            len(keys[0]), len(distinct), len(self._lengths), -1
        )
        far, length = points[:, :, -1], self._lengths[-1]
        slope, fixed = far / length, np.zeros_like(far)
        if len(self._lengths) > 1:
            slope = (far - points[:, :, 0]) / (length - self._lengths[0])
            fixed = far - slope * length
        wire_of = np.array([distinct.index(wire) for wire in wires])
        return Table(fixed, slope, keys[1], wire_of)

    @cached_property
    def _node(self) -> int:
        return self.base.topology.node_ranks(self.base.ranks)

    @cached_property
    def _lengths(self) -> list[int]:
        """Whole blocks on every rank; a single one where nothing has a fixed time."""
        topology = self.base.topology
        links = [topology.link(level) for level in topology.level_names()]
        unit = self.base.ranks * max(one.block_size for one in self.transports)
        short = -(-self.base.model.block_parameters // unit) * unit
        has_latency = any(link is not None and link.latency_us > 0 for link in links)
        if has_latency or topology.device.quantize_us > 0 or topology.device.collective_us > 0:
            return [short, 2 * short]
        return [short]

    def _partition(self, forward: int, backward: int, final: int, *, stops: int) -> Partition:
        return _split(forward, backward, self._node if stops else forward, final)

    def _costs(self, partition: Partition, transport: Transport) -> MoveCosts:
        is_ours = self.base.engine == "ours"
        moves = Moves(
            partition,
            transport,
            self.base.topology,
            self.base.ranks,
            self._items,
            gathers_stop=is_ours,
        )
        return _RememberingCosts(
            moves, self._network, sums_by_backend=not is_ours, replicas_by_degree=self._replicas
        )

    @cached_property
    def _replicas(self) -> dict[Hashable, tuple[Transfer, ...]]:
        return {}

    @cached_property
    def _items(self) -> ElementBytes:
        return element_bytes(self.base)

    @cached_property
    def _network(self) -> Network:
        return _Remembering(self.base.topology, self.base.ranks)


class _Remembering(Network):
    """The links of a machine; a hop is a line in its bytes, and is asked for twice at most."""

    def hop(
        self, inner: int, outer: int, received_bytes: float, algorithm: Algorithm | None = None
    ) -> HopCost:
        asked = inner, outer, algorithm
        if asked not in self._lines:
            near, far = (super(_Remembering, self).hop(*asked[:2], n, algorithm) for n in _FAR)
            self._lines[asked] = (
                near,
                HopCost(
                    (far.seconds - near.seconds) / _FAR[1],
                    tuple(seconds / _FAR[1] for seconds in far.occupied_s),
                    (far.lost_s - near.lost_s) / _FAR[1],
                ),
            )
        fixed, slope = self._lines[asked]
        return HopCost(
            fixed.seconds + received_bytes * slope.seconds,
            tuple([received_bytes * seconds for seconds in slope.occupied_s]),
            fixed.lost_s + received_bytes * slope.lost_s,
        )

    @cached_property
    def _lines(self) -> dict[tuple[int, int, Algorithm | None], tuple[HopCost, HopCost]]:
        """What a hop takes without bytes, and what each byte takes besides."""
        return {}


@dataclass(frozen=True)
class _RememberingCosts(MoveCosts):
    """Costs of one partition; what only depends on the optimizer's degree is asked for once.

    Attributes:
        replicas_by_degree: What others have asked for, by all that it depends on.
    """

    replicas_by_degree: dict[Hashable, tuple[Transfer, ...]] = field(default_factory=dict)

    def replicas(self, length: int) -> tuple[Transfer, ...]:
        moves = self.moves
        wires = moves.transport.gradients, moves.transport.sync
        asked = moves.partition.optimizer, wires, moves.transport.hadamard, length
        if asked not in self.replicas_by_degree:
            self.replicas_by_degree[asked] = super().replicas(length)
        return self.replicas_by_degree[asked]


@lru_cache(maxsize=2**14)
def _split(forward: int, backward: int, gradients: int, optimizer: int) -> Partition:
    return Partition(forward=forward, backward=backward, gradients=gradients, optimizer=optimizer)


@cache
def _formats(*, hadamard: bool = False, **wires: Wire) -> Transport:
    return Transport(hadamard=hadamard, **wires)


def priced(fixed: Floats, slope: Floats, lengths: Floats) -> Floats:
    """Return fixed times and those by element together.

    Args:
        fixed: Shape (n, columns).
        slope: The same.
        lengths: Shape (units, n).

    Returns:
        Shape (units, columns, n).
    """
    return np.asarray(fixed.T[None] + slope.T[None] * lengths[:, None])


def _as_demands(columns: Floats) -> Floats:
    encode, move, decode, lost, *links = np.moveaxis(columns, -1, 0)
    coding = encode + decode
    return np.stack([coding + move, coding + lost, *links], axis=-1)
