"""What a train step moves, and what a rank keeps, in closed form; arithmetic, without torch.

The formulas know nothing of the engine and its counters: tests hold both to be equal, and both to
the table of the method (dossier ZeRO-topo, 2.4 and 2.5). Symbols: L elements of a unit, padded; N
ranks; a conversion between degrees a | b among n = b / a ranks brings a rank n - 1 pieces of L / b.

Rules that the engine follows:

- A unit is gathered as often as its ``UnitSize`` says. The units of the last stage are not gathered
  again for the backward pass: it comes at once after the forward one.
- A gather of a degree above a node's stops at the node's, if that is one of the degrees.
- Only trainable units have gradients, and move between micro-batches.
- Sums of a few scalars (norm, loss) do not count.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.sharding import Partition
from configs.topology import CLUSTER, Topology
from configs.transport import BITS, Transport, Wire

_SCALE_BYTES = 4
_BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class UnitSize:
    """One flat vector of parameters, as far as its traffic goes.

    Attributes:
        length: Elements, with padding.
        is_trainable: Whether it has gradients and an optimizer.
        forward_gathers: How often a micro-batch's forward pass gathers it: 2 for the embedding of
            a tied head, unless it stays between.
        backward_gathers: How often the backward pass does: 0 for the last stage.
    """

    length: int
    is_trainable: bool = True
    forward_gathers: int = 1
    backward_gathers: int = 1


@dataclass(frozen=True)
class ItemSizes:
    """Bytes an element.

    Attributes:
        weights: At rest, and of the gradient that a backward pass makes.
        sums: Of the summed gradients.
        optimizer: Of master weights and moments together.
    """

    weights: int
    sums: int
    optimizer: int


def expected_bytes(
    units: Sequence[UnitSize],
    partition: Partition,
    transport: Transport,
    topology: Topology,
    *,
    num_ranks: int,
    items: ItemSizes,
    accumulation: int,
    rank: int = 0,
) -> dict[str, int]:
    """Return the bytes that a rank receives from others in one train step.

    Args:
        units: All of the model.
        partition: Over how many ranks each state is split.
        transport: The formats.
        topology: The machine.
        num_ranks: N.
        items: Bytes an element.
        accumulation: Micro-batches.
        rank: Which one; all are alike where degrees and levels nest.

    Returns:
        Bytes by level of the machine, from the innermost; levels with none are absent.
    """
    moves = _Moves(partition, transport, topology, num_ranks, rank)
    total: Counter[str] = Counter()
    for unit in units:
        for level, num_bytes in moves.of_passes(unit, items, accumulation):
            total[level] += num_bytes
        if unit.is_trainable:
            for level, num_bytes in moves.of_gradients(unit, items, accumulation):
                total[level] += num_bytes
    return {level: total[level] for level in topology.level_names() if total[level]}


def state_bytes(
    units: Sequence[UnitSize],
    partition: Partition,
    transport: Transport,
    *,
    items: ItemSizes,
) -> int:
    """Return the bytes of the model states that a rank keeps.

    Args:
        units: All of the model.
        partition: Over how many ranks each state is split.
        transport: The format in which the copy between the passes stays, if there is one.
        items: Bytes an element.

    Returns:
        Weights at rest, their copy between the passes where it is larger than that (not the whole
        vector, which has a degree of 1 and counts as gathered), summed gradients, and optimizer.
    """
    total = 0
    forward, backward = partition.forward, partition.backward
    for unit in units:
        total += unit.length // forward * items.weights
        if 1 < backward < forward:
            row = _payload(transport.weights, unit.length // forward, items.weights, transport)
            total += forward // backward * row
        if unit.is_trainable:
            total += unit.length // partition.gradients * items.sums
            total += unit.length // partition.optimizer * items.optimizer
    return total


@dataclass(frozen=True)
class _Moves:
    partition: Partition
    transport: Transport
    topology: Topology
    num_ranks: int
    rank: int

    def of_passes(
        self, unit: UnitSize, items: ItemSizes, accumulation: int
    ) -> Iterator[tuple[str, int]]:
        """Yield level and bytes of each gather of weights."""
        forward, backward = self.partition.forward, self.partition.backward
        firsts = 1 if self.transport.reuse_secondary else accumulation
        full = list(self._gather(unit, forward, 1, self.transport.weights, items, also=backward))
        kept = [] if backward == 1 else [hop for hop in full if hop[2] <= backward]
        from_forward = firsts * unit.forward_gathers
        from_kept = accumulation * unit.backward_gathers
        from_kept += (accumulation - firsts) * unit.forward_gathers
        for times, hops in ((from_forward, full), (from_kept, kept)):
            for level, num_bytes, _ in hops:
                yield level, times * num_bytes

    def of_gradients(
        self, unit: UnitSize, items: ItemSizes, accumulation: int
    ) -> Iterator[tuple[str, int]]:
        """Yield level and bytes of each reduction, and of the refresh of the weights."""
        one, final = self.partition.gradients, self.partition.optimizer
        for level, num_bytes in self._reduce(unit, 1, one, items.weights, items):
            yield level, accumulation * num_bytes
        yield from self._reduce(unit, one, final, items.sums, items)
        replicas = self.num_ranks // final
        if replicas > 1:
            level = self._level(final, self.num_ranks)
            piece = -(-unit.length // final // replicas)
            num_bytes = _payload(self._wire_of_sums(level), piece, items.sums, self.transport)
            yield level, 2 * (replicas - 1) * num_bytes
        wire, low = self.transport.refresh, self.partition.forward
        for level, num_bytes, _ in self._gather(unit, final, low, wire, items):
            yield level, num_bytes

    def _gather(
        self, unit: UnitSize, high: int, low: int, wire: Wire, items: ItemSizes, *, also: int = 1
    ) -> Iterator[tuple[str, int, int]]:
        """Yield level, bytes and upper degree of each hop; the shard's own payload goes through."""
        row = _payload(wire, unit.length // high, items.weights, self.transport)
        for inner, outer in itertools.pairwise(self._stops(low, high, also)):
            num_rows = high // outer
            yield self._level(inner, outer), (outer // inner - 1) * num_rows * row, outer

    def _reduce(
        self, unit: UnitSize, low: int, high: int, item: int, items: ItemSizes
    ) -> Iterator[tuple[str, int]]:
        """Yield level and bytes of each hop; after the first, sums are sent."""
        for inner, outer in itertools.pairwise(self._stops(low, high, 1)):
            level = self._level(inner, outer)
            wire = self._wire_of_sums(level)
            row = _payload(wire, unit.length // outer, item, self.transport)
            yield level, (outer // inner - 1) * row
            item = items.sums

    def _stops(self, low: int, high: int, also: int) -> list[int]:
        node = self.topology.node_ranks(self.num_ranks)
        inside = {d for d in (also, node) if d in self.partition.degrees and low < d < high}
        return sorted({low, *inside, high})

    def _level(self, inner: int, outer: int) -> str:
        """Return the level of the group in which a rank changes between two degrees."""
        first = self.rank - self.rank % outer + self.rank % inner
        return self.topology.level_of(first, first + outer - inner)

    def _wire_of_sums(self, level: str) -> Wire:
        return self.transport.sync if level == CLUSTER else self.transport.gradients


def _payload(wire: Wire, length: int, item: int, transport: Transport) -> int:
    """Return the bytes of one row of so many elements."""
    if wire in BITS:
        values = -(-length * BITS[wire] // 8)
        scales = -(-length // transport.block_size)
        return -(-values // _SCALE_BYTES) * _SCALE_BYTES + scales * _SCALE_BYTES
    return length * (_BFLOAT16_BYTES if wire == "bfloat16" else item)
