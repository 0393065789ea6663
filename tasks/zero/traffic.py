"""What a train step moves, and what a rank keeps, in closed form; arithmetic, without torch.

The formulas know nothing of the engine and its counters: tests hold both to be equal, and both to
the table of the method (dossier ZeRO-topo, 2.4 and 2.5). Symbols: L elements of a unit, padded; N
ranks; a conversion between degrees a | b among n = b / a ranks brings a rank n - 1 pieces of L / b.

Rules that the engine follows:

- A unit is gathered as often as its ``UnitSize`` says. The units of the last stage are not gathered
  again for the backward pass: it comes at once after the forward one.
- A gather of a degree above a node's stops at the node's, if that is one of the degrees.
- A shard that is summed over its replicas is cut into one piece for each of them, padded to equal
  pieces, and to whole blocks where they are quantized.
- With ``reuse_secondary`` the copy between the passes stays for later micro-batches, but no longer
  than its train step: each begins with gathers from the shards at rest, of frozen units, too.
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
class ElementBytes:
    """Bytes an element, as what moves and what stays counts them.

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
    items: ElementBytes,
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
    moves = Moves(partition, transport, topology, num_ranks, items, rank=rank)
    total: Counter[str] = Counter()
    for unit in units:
        for times, hops in moves.of_step(unit, accumulation):
            for hop in hops:
                total[hop.level] += times * hop.received_bytes
    return {level: total[level] for level in topology.level_names() if total[level]}


def state_bytes(
    units: Sequence[UnitSize],
    partition: Partition,
    transport: Transport,
    topology: Topology,
    *,
    num_ranks: int,
    items: ElementBytes,
) -> int:
    """Return the bytes of the model states that a rank keeps.

    Args:
        units: All of the model.
        partition: Over how many ranks each state is split.
        transport: The format in which the copy between the passes stays, if there is one; whether
            errors of quantized sums are kept.
        topology: The machine.
        num_ranks: N.
        items: Bytes an element.

    Returns:
        Weights at rest, their copy between the passes where it is larger than that (not the whole
        vector, which has a degree of 1 and counts as gathered), summed gradients, optimizer, and
        with error feedback the errors, from the first train step on.
    """
    total = 0
    forward, backward = partition.forward, partition.backward
    moves = Moves(partition, transport, topology, num_ranks, items)
    for unit in units:
        total += unit.length // forward * items.weights
        if 1 < backward < forward:
            row = _payload(transport.weights, unit.length // forward, items.weights, transport)
            total += forward // backward * row
        if unit.is_trainable:
            total += unit.length // partition.gradients * items.sums
            total += unit.length // partition.optimizer * items.optimizer
            total += moves.errors(unit.length)
    return total


@dataclass(frozen=True)
class Move:
    """One hop of a conversion between degrees, as one rank sees it.

    Attributes:
        inner: The lower degree.
        outer: The higher one; their quotient n is the number of ranks in the group.
        level: Innermost level of the machine that holds the group.
        wire: The format.
        num_rows: Rows that a rank sends to each of the others.
        row_length: Elements of a row.
        row_bytes: Bytes of a row, scales included.
        item: Bytes of an element before it was brought into the format.
    """

    inner: int
    outer: int
    level: str
    wire: Wire
    num_rows: int
    row_length: int
    row_bytes: int
    item: int

    @property
    def num_ranks(self) -> int:
        """n: ranks of the group."""
        return self.outer // self.inner

    @property
    def received_bytes(self) -> int:
        """Bytes that a rank receives from the others."""
        return (self.num_ranks - 1) * self.num_rows * self.row_bytes


@dataclass(frozen=True)
class Moves:
    """The hops of every conversion of a unit.

    Attributes:
        partition: Over how many ranks each state is split.
        transport: The formats.
        topology: The machine.
        num_ranks: N.
        items: Bytes an element.
        rank: Which rank looks.
        gathers_stop: Whether a gather of a high degree stops at lower ones, as ours do; else it is
            one hop over all its ranks.
        kept_wire: Format of the gather from a copy between the passes, where gathers do not stop:
            ZeRO++ as published has it in the weights' own type (hpZ). Default: as weights.
    """

    partition: Partition
    transport: Transport
    topology: Topology
    num_ranks: int
    items: ElementBytes
    rank: int = 0
    gathers_stop: bool = True
    kept_wire: Wire | None = None

    def of_step(self, unit: UnitSize, accumulation: int) -> Iterator[tuple[int, list[Move]]]:
        """Yield how often a train step makes each conversion of a unit, and its hops.

        Args:
            unit: The unit.
            accumulation: Micro-batches.
        """
        firsts = 1 if self.transport.reuse_secondary else accumulation
        from_kept = accumulation * unit.backward_gathers
        from_kept += (accumulation - firsts) * unit.forward_gathers
        yield firsts * unit.forward_gathers, self.forward_gather(unit.length)
        yield from_kept, self.kept_gather(unit.length)
        if unit.is_trainable:
            yield accumulation, self.reduction(unit.length)
            yield 1, self.sync(unit.length)
            yield 2, self.all_reduction(unit.length)
            yield 1, self.refresh(unit.length)

    def forward_gather(self, length: int) -> list[Move]:
        """List the hops by which the whole vector is made from shards at rest.

        Args:
            length: L, as of all other methods.
        """
        forward, backward = self.partition.forward, self.partition.backward
        also = backward if self.gathers_stop else 1
        return list(self._gather(length, forward, 1, self.transport.weights, also=also))

    def kept_gather(self, length: int) -> list[Move]:
        """List the hops by which it is made again from what stays between the passes."""
        backward = self.partition.backward
        if not self.gathers_stop:
            has_copy = backward < self.partition.forward
            wire = (self.kept_wire if has_copy else None) or self.transport.weights
            return list(self._gather(length, backward, 1, wire))
        hops = self.forward_gather(length)
        return [] if backward == 1 else [hop for hop in hops if hop.outer <= backward]

    def reduction(self, length: int) -> list[Move]:
        """List the hops of a micro-batch's gradient."""
        return list(self._reduce(length, 1, self.partition.gradients, self.items.weights))

    def sync(self, length: int) -> list[Move]:
        """List the hops of the sums of all micro-batches, to the ranks of the optimizer."""
        one, final = self.partition.gradients, self.partition.optimizer
        return list(self._reduce(length, one, final, self.items.sums))

    def all_reduction(self, length: int) -> list[Move]:
        """List the one hop of each half of the sum over replicas: scatter, then gather."""
        final = self.partition.optimizer
        replicas = self.num_ranks // final
        if replicas == 1:
            return []
        level = self._level(final, self.num_ranks)
        wire = self._wire_of_sums(level)
        block = self.transport.block_size if wire in BITS else 1
        piece = -(-length // final // (replicas * block)) * block
        row = _payload(wire, piece, self.items.sums, self.transport)
        return [Move(final, self.num_ranks, level, wire, 1, piece, row, self.items.sums)]

    def refresh(self, length: int) -> list[Move]:
        """List the hops by which updated weights come from the optimizer's shards."""
        final, low = self.partition.optimizer, self.partition.forward
        return list(self._gather(length, final, low, self.transport.refresh))

    def errors(self, length: int) -> int:
        """Return the bytes of the errors that are kept of a unit's gradient and sums.

        Each quantized hop has the errors of all rows that a rank sends there: those of the first
        hop of a gradient are as many as it has elements, however the sums are split.

        Returns:
            INT8 and scales; 0 without error feedback.
        """
        hops = [*self.reduction(length), *self.sync(length)]
        total = sum(self.error_bytes(hop, hop.num_ranks) for hop in hops if hop.wire in BITS)
        for hop in self.all_reduction(length):
            if hop.wire in BITS:  # and what is summed is quantized again
                total += self.error_bytes(hop, hop.num_ranks) + self.error_bytes(hop, 1)
        return total

    def error_bytes(self, hop: Move, num_rows: int) -> int:
        """Return the bytes of the errors of some rows of a quantized hop.

        Args:
            hop: Of a reduction.
            num_rows: Each has its own scales.

        Returns:
            INT8 and scales; 0 without error feedback.
        """
        if not self.transport.error_feedback:
            return 0
        return num_rows * _payload("int8", hop.row_length, hop.item, self.transport)

    def _gather(
        self, length: int, high: int, low: int, wire: Wire, *, also: int = 1
    ) -> Iterator[Move]:
        """Yield the hops from the highest degree on; the shard's own payload goes through."""
        item = self.items.weights
        row = _payload(wire, length // high, item, self.transport)
        stops = self._stops(low, high, also, at_node=self.gathers_stop)
        for inner, outer in reversed(list(itertools.pairwise(stops))):
            level = self._level(inner, outer)
            yield Move(inner, outer, level, wire, high // outer, length // high, row, item)

    def _reduce(self, length: int, low: int, high: int, item: int) -> Iterator[Move]:
        """Yield the hops; after the first, sums are sent."""
        for inner, outer in itertools.pairwise(self._stops(low, high, 1)):
            level = self._level(inner, outer)
            wire = self._wire_of_sums(level)
            row = _payload(wire, length // outer, item, self.transport)
            yield Move(inner, outer, level, wire, 1, length // outer, row, item)
            item = self.items.sums

    def _stops(self, low: int, high: int, also: int, *, at_node: bool = True) -> list[int]:
        node = self.topology.node_ranks(self.num_ranks) if at_node else 1
        inside = {d for d in (also, node) if low < d < high and d in self.partition.degrees}
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
