"""What each collective of a unit takes: the hops of the traffic model, on the links of a machine.

A collective is encoded, moved hop by hop, and decoded, one after the other, in its lane. Encoding
and decoding are work of the device (``costs.coding``). So is what the engine does for each
collective; it counts as encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from configs.topology import CLUSTER
from configs.transport import BITS
from tasks.zero.costs.coding import CodingCosts, Values
from tasks.zero.costs.links import Algorithm, HopCost, Network
from tasks.zero.traffic import Move, Moves

_MICRO = 1e-6


@dataclass(frozen=True)
class Transfer:
    """What one collective takes; all seconds. Fields may be arrays, one element a candidate.

    Attributes:
        encode_s: Before anything moves; the engine's own time is in it.
        move_s: On idle links.
        decode_s: After it.
        lost_s: Computing time that the moving takes away; encoding and decoding take their own.
        occupied_s: How long it keeps the link of each level, from the innermost.
    """

    encode_s: float
    move_s: float
    decode_s: float
    lost_s: float
    occupied_s: tuple[float, ...]

    @cached_property
    def seconds(self) -> float:
        """In its lane, on idle links."""
        return self.encode_s + self.move_s + self.decode_s

    @cached_property
    def coding_s(self) -> float:
        """Work of the device."""
        return self.encode_s + self.decode_s


@dataclass(frozen=True)
class UnitMoves:
    """What the collectives of one unit take.

    Attributes:
        forward_gather: Whole weights from shards at rest.
        kept_gather: Whole weights from what stays between the passes.
        reduction: A micro-batch's gradient to the ranks that sum it.
        sync: The sums to the ranks of the optimizer.
        refresh: The updated weights to shards at rest.
    """

    forward_gather: Transfer
    kept_gather: Transfer
    reduction: Transfer
    sync: Transfer
    refresh: Transfer


@dataclass(frozen=True)
class MoveCosts:
    """Costs of the conversions of units of one training.

    Attributes:
        moves: Their hops.
        network: The links.
        sums_by_backend: Whether gradients that are not quantized are summed by the backend in
            their own type, as DeepSpeed and FSDP2 have it; ours does so on GPUs, where that is the
            type of the sums, and on flat hops between nodes of several ranks.
    """

    moves: Moves
    network: Network
    sums_by_backend: bool = False

    def of_unit(self, length: int, *, is_trainable: bool = True) -> UnitMoves:
        """Return what the collectives of a unit take.

        Args:
            length: Elements, with padding.
            is_trainable: Whether it has gradients.
        """
        nothing = self._gather([], length)
        if not is_trainable:
            return UnitMoves(*self._gathers(length), nothing, nothing, nothing)
        return UnitMoves(
            *self._gathers(length), self.reduction(length), self.sync(length), self.refresh(length)
        )

    def _gathers(self, length: int) -> tuple[Transfer, Transfer]:
        return self.forward_gather(length), self.kept_gather(length)

    def forward_gather(self, length: int) -> Transfer:
        """Return what the gather from shards at rest takes.

        Args:
            length: Elements of the unit, with padding; as of all other methods.
        """
        return self._gather(self.moves.forward_gather(length), length)

    def kept_gather(self, length: int) -> Transfer:
        """Return what the gather from what stays between the passes takes."""
        transfer = self._gather(self.moves.kept_gather(length), length)
        if self.moves.gathers_stop and self.moves.partition.backward < self.moves.partition.forward:
            # It stays as it came over the wire.
            return replace(transfer, encode_s=self._issue_s(self.moves.kept_gather(length)))
        return transfer

    def refresh(self, length: int) -> Transfer:
        """Return what the gather of updated weights takes."""
        low = self.moves.partition.forward
        return self._gather(self.moves.refresh(length), length // low)

    def reduction(self, length: int) -> Transfer:
        """Return what the sum of a micro-batch's gradients takes."""
        degree = self.moves.partition.gradients
        stays = degree == 1  # and is added up by the computation itself
        return self._reduce(self.moves.reduction(length), 0 if stays else length // degree)

    def sync(self, length: int) -> Transfer:
        """Return what the sum over the ranks of the optimizer takes, replicas included."""
        hops = self.moves.sync(length)
        scatter = self._reduce(hops, length // self.moves.partition.optimizer if hops else 0)
        halves = self.replicas(length)
        return _joined([scatter, *halves]) if halves else scatter

    def replicas(self, length: int) -> tuple[Transfer, ...]:
        """Return what both halves of the sum over replicas take, if there are replicas."""
        hops = self.moves.all_reduction(length)
        if not hops:
            return ()
        (hop,) = hops
        piece = hop.row_length
        scatter = self._reduce(hops, piece)
        gather = self._gather(hops, piece * hop.num_ranks)
        if hop.wire not in BITS:
            return scatter, gather
        # What is summed is quantized again, as a sum: smoothed, and with its own error.
        packed = self._coding.quantize_sums_s(_values(hop, 1), self.moves.error_bytes(hop, 1))
        return scatter, replace(
            gather,
            encode_s=self._issue_s(hops) + packed,
            decode_s=self._coding.dequantize_sums_s(_values(hop, hop.num_ranks)),
        )

    def _gather(self, hops: Sequence[Move], length: int) -> Transfer:
        """Quantize the shard, pass its payload on through all hops, dequantize everything.

        Args:
            hops: In the order of time.
            length: Elements that come out.
        """
        encode, decode = self._issue_s(hops), 0.0
        if hops and hops[0].wire in BITS:
            first = hops[0]
            rows = hops[-1].num_rows * hops[-1].num_ranks
            encode += self._coding.quantize_s(_values(first, first.num_rows))
            decode = self._coding.dequantize_s(Values(length, rows * first.row_bytes, first.item))
        return self._moved(encode, [self._hop(hop) for hop in hops], decode)

    def _reduce(self, hops: Sequence[Move], length: int) -> Transfer:
        """Send each hop's rows to where they are summed; in the end add the sum to the others.

        Args:
            hops: In the order of time.
            length: Elements of the sum.
        """
        encode, decode = self._issue_s(hops), 0.0
        costs: list[HopCost] = []
        sums = self.moves.items.sums
        for hop in hops:
            is_quantized = hop.wire in BITS
            by_backend = not is_quantized and self._is_of_backend(hop)
            costs.append(self._hop(hop, is_exchange=not by_backend))
            rows_bytes = hop.num_ranks * hop.row_bytes
            if is_quantized:
                errors = self.moves.error_bytes(hop, hop.num_ranks)
                encode += self._coding.quantize_sums_s(_values(hop, hop.num_ranks), errors)
                decode += self._coding.dequantize_sums_s(Values(hop.row_length, rows_bytes, sums))
            elif not by_backend:
                decode += self._coding.touching_s(rows_bytes + hop.row_length * sums)
        decode += self._coding.touching_s(3 * length * sums)
        return self._moved(encode, costs, decode)

    def _is_of_backend(self, hop: Move) -> bool:
        if self.sums_by_backend:
            return True
        is_same_type = hop.item == self.moves.items.sums and hop.wire == "full"
        is_flat = hop.level == CLUSTER and hop.inner < self.moves.topology.ranks_per_node
        return (is_same_type or is_flat) and self.network.algorithm(hop.level) != "direct"

    def _hop(self, hop: Move, *, is_exchange: bool = False) -> HopCost:
        algorithm: Algorithm | None = "exchange" if is_exchange else None
        return self.network.hop(hop.inner, hop.outer, hop.received_bytes, algorithm)

    def _moved(self, encode: float, hops: Sequence[HopCost], decode: float) -> Transfer:
        if len(hops) == 1:
            (hop,) = hops
            return Transfer(encode, hop.seconds, decode, hop.lost_s, hop.occupied_s)
        occupied = [0.0] * len(self.network.levels)
        for hop in hops:
            for index, seconds in enumerate(hop.occupied_s):
                occupied[index] += seconds
        return Transfer(
            encode_s=encode,
            move_s=sum(hop.seconds for hop in hops),
            decode_s=decode,
            lost_s=sum(hop.lost_s for hop in hops),
            occupied_s=tuple(occupied),
        )

    def _issue_s(self, hops: Sequence[Move]) -> float:
        """Return what the engine itself needs for a collective; nothing where nothing moves."""
        return _MICRO * self.moves.topology.device.collective_us if hops else 0.0

    @cached_property
    def _coding(self) -> CodingCosts:
        return CodingCosts(self.moves.topology.device, self.moves.transport)


def _values(hop: Move, rows: int) -> Values:
    """Return the values of some rows of a hop."""
    return Values(rows * hop.row_length, rows * hop.row_bytes, hop.item)


def _joined(transfers: Sequence[Transfer]) -> Transfer:
    """Return transfers one after the other as one."""
    return Transfer(
        encode_s=sum(one.encode_s for one in transfers),
        move_s=sum(one.move_s for one in transfers),
        decode_s=sum(one.decode_s for one in transfers),
        lost_s=sum(one.lost_s for one in transfers),
        occupied_s=tuple(map(sum, zip(*(one.occupied_s for one in transfers), strict=True))),
    )
