"""The fabric: every way in which shards change their degree, counted by level of the machine.

Two lanes, one of gathers and one of reductions, run beside the computation and beside each other.
All ranks call the same methods in the same order. What is handed to a method belongs to it until
its handle has been waited for: the caller neither reads nor writes it before.

A gather quantizes once, at the shard, forwards the payload through all hops unchanged, and
dequantizes once at the end, the rank's own part included: so all ranks get the same values. A
reduction sends each hop's pieces straight to where they are summed, in the order of the ranks, in
the type of what it is added to.

Letters: K rows of n elements, or of b bytes.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import torch
from torch import Tensor
from torch import distributed as dist

from configs.sharding import Partition
from configs.topology import Topology
from configs.transport import BITS, Transport, Wire
from tasks.zero.error_feedback import ErrorFeedback
from tasks.zero.lanes import Exposed, Lane, make_lane
from tasks.zero.layout import Chain, padded
from tasks.zero.routes import Route, Routes, all_hops, gather_hops, reduction_hops
from tasks.zero.wires import Coder

_Encode = Callable[[Tensor], Tensor]
"""Rows of numbers to rows of bytes."""


@dataclass(frozen=True)
class Counts:
    """What a rank's collectives did, by level of the machine.

    Attributes:
        received_bytes: Got from other ranks.
        exposed_s: Time that was waited for them.
    """

    received_bytes: dict[str, int]
    exposed_s: dict[str, float]


@dataclass
class Kept:
    """A by-product of a gather: a shard of a degree on the way, as it came over the wire.

    Attributes:
        degree: Of the shard.
        coder: The format of its rows.
        num_bytes: Its size.
        payload: Its rows, shape (K, b), as soon as the gather is done.
    """

    degree: int
    coder: Coder
    num_bytes: int
    payload: Tensor = field(default_factory=lambda: torch.empty(0))


class Handle:
    """A collective that is under way.

    Args:
        join: Waits for it, or raises what it raised.
        work: What is done: its tensors have to live so long.
        kept: What the gather keeps, if it was asked to; valid at once for another gather.
    """

    def __init__(
        self, join: Callable[[], None], work: Callable[[], None], kept: Kept | None = None
    ) -> None:
        self._join: Callable[[], None] | None = join
        self._work: Callable[[], None] | None = work
        self.kept = kept

    def wait(self) -> None:
        """Wait until it is done; again, once it is done, does nothing.

        Raises:
            LaneFailedError: One before it has failed.
            RuntimeError: It failed itself, as the backend tells it.
        """
        if self._join is not None:
            try:
                self._join()
            finally:
                self._work = None
            self._join = None


class Fabric:
    """All collectives between shards of one chain; made by all ranks at the same time.

    Args:
        topology: The machine.
        chain: The degrees; of as many ranks as the default process group has.
        transport: Block size and smoothing; the formats are arguments.
        device: Of all tensors; the default process group must work on it.
        partition: Whose conversions are to be done, each hop of which needs process groups.
            Default: all conversions between degrees of the chain.
        timeout: After which a rank that does not take part is taken for lost; None for the
            backend's own.

    Raises:
        ValueError: The chain is of another number of ranks.
    """

    def __init__(
        self,
        topology: Topology,
        chain: Chain,
        transport: Transport,
        device: torch.device,
        *,
        partition: Partition | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        if chain.num_ranks != dist.get_world_size():
            raise ValueError(
                f"a chain of {chain.num_ranks} ranks, in a job of {dist.get_world_size()}; "
                "make it with the job's number"
            )
        self._chain, self._transport = chain, transport
        self._node = topology.node_ranks(chain.num_ranks)
        self._levels = topology.level_names()
        self._is_summed_by_backend = device.type == "cuda"
        self._received: Counter[str] = Counter()
        self._exposed = Exposed()
        gathers, reductions = self._hops(partition)
        self._gathers = Routes(topology, chain, device, hops=gathers, timeout=timeout)
        self._reductions = Routes(topology, chain, device, hops=reductions, timeout=timeout)
        # A rank that ends at once would be a lost peer to one that is still about to connect.
        dist.barrier()
        self._gather_lane = make_lane(device, "gathers", self._exposed)
        self._reduce_lane = make_lane(device, "reductions", self._exposed)

    def _hops(self, partition: Partition | None) -> list[set[tuple[int, int]]]:
        chain, node = self._chain, self._node
        if partition is None:
            return [all_hops(chain, node, replicas=replicas) for replicas in (False, True)]
        return [hops(partition, chain, node) for hops in (gather_hops, reduction_hops)]

    @property
    def exposed_s(self) -> dict[str, float]:
        """Time waited since the counts were last taken, by level."""
        return self._exposed.seconds()

    def take_counts(self) -> Counts:
        """Return what happened since the last call, sums of scalars apart."""
        counts = Counts(dict(self._received), self._exposed.seconds())
        self._received.clear()
        self._exposed.clear()
        return counts

    def close(self) -> None:
        """End the lanes; what has not begun is not done any more.

        A collective that hangs is left to itself, and so are its process groups.
        """
        if self._gather_lane.close():
            self._gathers.close()
        if self._reduce_lane.close():
            self._reductions.close()

    def gather(
        self,
        shard: Tensor,
        out: Tensor,
        *,
        inner: int,
        outer: int,
        wire: Wire,
        keep: int | None = None,
    ) -> Handle:
        """Begin to make a shard of a lower degree from those of a higher one.

        Args:
            shard: This rank's of degree ``outer``, shape (L / outer,), contiguous; of the type of
                ``out`` or a wider one, from which it is brought into that first.
            out: Takes its shard of degree ``inner``, shape (L / inner,), contiguous.
            inner: 1, or a degree of the chain.
            outer: A degree of the chain, or ``inner``: then it is only brought into the format.
            wire: The format; ``full`` is the type of ``out``.
            keep: A degree of the chain between the two, whose shard the handle is to keep.

        Returns:
            The handle.

        Raises:
            ValueError: The degree to keep is not between the others.
        """
        if keep is not None and not inner < keep < outer:
            raise ValueError(f"degree {keep} is not between {inner} and {outer}; keep one that is")
        coder = self._coder(wire, out.dtype, shard.numel())
        kept = None
        if keep is not None:
            kept = Kept(keep, coder, outer // keep * coder.num_bytes)
        stops = self._chain.stops(inner, outer, at=(keep or 0, self._node))

        def payload() -> Tensor:
            return coder.encode(shard.data.to(out.dtype).view(1, -1))

        return self._begin_gather(payload, coder, stops[::-1], out=out.data, kept=kept, num_rows=1)

    def gather_kept(self, kept: Kept, out: Tensor) -> Handle:
        """Begin to make the whole vector from what an earlier gather has kept.

        Args:
            kept: From its handle; the gather itself need not have been waited for.
            out: Takes the vector, shape (L,), contiguous.

        Returns:
            The handle.
        """
        stops = self._chain.stops(1, kept.degree, at=(self._node,))
        num_rows = kept.num_bytes // kept.coder.num_bytes

        def payload() -> Tensor:
            return kept.payload  # of a gather that was before, in the same lane

        return self._begin_gather(
            payload, kept.coder, stops[::-1], out=out.data, kept=None, num_rows=num_rows
        )

    def reduce(
        self,
        full: Tensor,
        out: Tensor,
        *,
        inner: int,
        outer: int,
        inside: Wire,
        across: Wire,
        errors: ErrorFeedback | None = None,
        key: str = "",
        is_added: bool = True,
    ) -> Handle:
        """Begin to sum shards of a lower degree into those of a higher one.

        Args:
            full: This rank's values for its shard of degree ``inner``, shape (L / inner,),
                contiguous.
            out: The sum of all ranks' values for its shard of degree ``outer`` is added to it;
                shape (L / outer,), contiguous, of the type to add in. What is not added to, may
                be a part of ``full``.
            inner: 1, or a degree of the chain.
            outer: A degree of the chain, or ``inner``: then nothing is sent.
            inside: The format of hops inside a node; ``full`` is the type of ``full``, and after
                the first hop that of ``out``.
            across: That of hops between nodes.
            errors: What quantization took before; it is added, and learnt anew.
            key: Of this gradient, among the errors.
            is_added: Whether to add to ``out``; else it is written over.

        Returns:
            The handle.
        """
        hops: list[tuple[Route, Coder]] = []
        length, dtype = full.numel(), full.dtype
        for low, high in itertools.pairwise(self._chain.stops(inner, outer, at=(self._node,))):
            if low == high:
                continue
            route = self._reductions.between(low, high)
            length //= route.num_ranks
            coder = self._coder(inside if route.is_inside else across, dtype, length, is_sum=True)
            self._count(route, coder.num_bytes)
            hops.append((route, coder))
            dtype = out.dtype
        source, target = full.data, out.data

        def work() -> None:
            values = source
            for number, (route, coder) in enumerate(hops):
                rows_Kn = values.view(route.num_ranks, -1)
                encode = _encoding(coder, errors, f"{key}/{number}")
                values = self._sum(route, coder, rows_Kn, target.dtype, encode)
            if is_added:
                target.add_(values)
            else:
                target.copy_(values)

        return self._begin(self._reduce_lane, work, [route for route, _ in hops])

    def all_reduce(
        self,
        values: Tensor,
        *,
        degree: int,
        inside: Wire,
        across: Wire,
        errors: ErrorFeedback | None = None,
        key: str = "",
    ) -> Handle:
        """Begin to sum, in place, what the replicas of a shard have.

        Quantized, it loses something twice: each rank of its values, and who sums a piece of that.
        With error feedback either rank keeps what it has lost.

        Args:
            values: This rank's, shape (L / degree,), contiguous; float32 or float64, in which they
                are added.
            degree: Of the shard; its replicas are the ranks with the same shard.
            inside: The format if they are all in one node; ``full`` is the type of ``values``.
            across: The format if they are not.
            errors: As for ``reduce``.
            key: As for ``reduce``.

        Returns:
            The handle.
        """
        target = values.data
        if degree == self._chain.num_ranks:
            return self._begin(self._reduce_lane, lambda: None, [])
        route = self._reductions.between(degree, self._chain.num_ranks)
        wire = inside if route.is_inside else across
        # Whole blocks, though the shard may be none for each replica: the kernels do these alone.
        block_size = self._transport.block_size if wire in BITS else 1
        whole = padded(target.numel(), degree=route.num_ranks, block_size=block_size)
        length = whole // route.num_ranks
        coder = self._coder(wire, target.dtype, length, is_sum=True)
        self._count(route, 2 * coder.num_bytes)

        def work() -> None:
            values = target
            if target.numel() < whole:
                values = target.new_zeros(whole)
                values[: target.numel()] = target
            rows_Kn = values.view(route.num_ranks, length)
            encode = _encoding(coder, errors, f"{key}/scattered")
            piece = self._sum(route, coder, rows_Kn, target.dtype, encode)
            payload_Kb = _rows_of_bytes(route.num_ranks, coder, target.device)
            encode = _encoding(coder, errors, f"{key}/gathered")
            route.gather(encode(piece.view(1, -1)), payload_Kb)
            coder.decode(payload_Kb, rows_Kn)
            if values is not target:
                target.copy_(values[: target.numel()])

        return self._begin(self._reduce_lane, work, [route])

    def sum_scalars(self, values: Tensor) -> None:
        """Sum a few numbers over all ranks, in place, after all reductions so far.

        Their bytes are not counted.

        Args:
            values: This rank's; float32 or float64.
        """
        if self._chain.num_ranks == 1:
            return
        group = self._reductions.between(1, self._chain.num_ranks).group
        target = values.data

        def work() -> None:
            dist.all_reduce(target, group=group)

        self._begin(self._reduce_lane, work, []).wait()

    def _begin_gather(
        self,
        first_payload: Callable[[], Tensor],
        coder: Coder,
        stops: Sequence[int],
        *,
        out: Tensor,
        kept: Kept | None,
        num_rows: int,
    ) -> Handle:
        """Begin to forward payloads from stop to stop, from the highest degree to the lowest."""
        hops: list[tuple[int, Route]] = []
        for high, low in itertools.pairwise(stops):
            if low < high:
                route = self._gathers.between(low, high)
                self._count(route, num_rows * coder.num_bytes)
                hops.append((low, route))
                num_rows *= route.num_ranks
        is_direct = not coder.is_quantized and coder.type_on_wire == out.dtype

        def work() -> None:
            payload_Kb = first_payload()
            for low, route in hops:
                if is_direct and low == stops[-1]:
                    route.gather(payload_Kb, out.view(torch.uint8))
                    return
                into_Kb = _rows_of_bytes(len(payload_Kb) * route.num_ranks, coder, out.device)
                route.gather(payload_Kb, into_Kb)
                payload_Kb = into_Kb
                if kept is not None and low == kept.degree:
                    kept.payload = payload_Kb
            coder.decode(payload_Kb, out.view(len(payload_Kb), coder.length))

        return self._begin(self._gather_lane, work, [route for _, route in hops], kept)

    def _begin(
        self, lane: Lane, work: Callable[[], None], routes: list[Route], kept: Kept | None = None
    ) -> Handle:
        level = max((route.level for route in routes), key=self._levels.index, default=None)
        return Handle(lane.submit(work, level), work, kept)

    def _coder(self, wire: Wire, dtype: torch.dtype, length: int, *, is_sum: bool = False) -> Coder:
        """Return a format; only what is summed is smoothed: gradients have outliers."""
        return Coder(
            wire, dtype, length, self._transport.block_size, is_sum and self._transport.hadamard
        )

    def _sum(
        self, route: Route, coder: Coder, rows_Kn: Tensor, dtype: torch.dtype, encode: _Encode
    ) -> Tensor:
        """Return the sum over the ranks of this rank's piece.

        On GPUs the backend adds, in the type on the wire, where that is the type to add in, and on
        routes between nodes that an exchange would load once for every rank of a node.
        """
        is_exact = coder.type_on_wire == dtype
        if self._is_summed_by_backend and not coder.is_quantized and (is_exact or route.is_flat):
            return route.reduce(rows_Kn.to(coder.type_on_wire))
        return coder.decode_sum(route.exchange(encode(rows_Kn)), dtype)

    def _count(self, route: Route, num_bytes: int) -> None:
        """Count what each other rank of a route sends to this one."""
        self._received[route.level] += (route.num_ranks - 1) * num_bytes


def _rows_of_bytes(num_rows: int, coder: Coder, device: torch.device) -> Tensor:
    return torch.empty((num_rows, coder.num_bytes), dtype=torch.uint8, device=device)


def _encoding(coder: Coder, errors: ErrorFeedback | None, key: str) -> _Encode:
    """Return what brings rows into a format: with the errors of a key, if there is feedback."""
    return coder.encode if errors is None else partial(errors.encode, key, coder)
