"""The fabric on eight gloo ranks: two nodes of two packages of two."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from configs.sharding import Partition
from configs.topology import CLUSTER, NODE, load_topology
from configs.transport import Transport, Wire
from tasks.zero import routes
from tasks.zero.collectives import Fabric, Handle
from tasks.zero.error_feedback import ErrorFeedback
from tasks.zero.lanes import LaneFailedError
from tasks.zero.layout import Chain
from tasks.zero.traffic import ElementBytes, UnitSize, expected_bytes
from tests.ranks import RankPool, RanksFailedError

Ranks = Callable[[int], RankPool]
MINI = load_topology("mini")
BLOCK = 32
CHAINS = [(8,), (2, 8), (2, 4, 8), (4, 8), (2, 4), (4,)]


@contextmanager
def fabric_of(
    num_ranks: int, degrees: tuple[int, ...], transport: Transport | None = None
) -> Iterator[tuple[Fabric, Chain]]:
    """Make a fabric, and end it."""
    chain = Chain(num_ranks, degrees)
    transport = transport or Transport(block_size=BLOCK)
    fabric = Fabric(MINI, chain, transport, torch.device("cpu"))
    yield fabric, chain
    fabric.close()


def whole_of(rank: int, length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a rank's own vector of whole numbers, whose sums are exact."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(-1000, 1000, (length,), generator=generator).to(dtype)


def shard_of(chain: Chain, rank: int, degree: int, whole: Tensor) -> Tensor:
    """Return a copy of a rank's shard."""
    begin = chain.offset(rank, degree, len(whole))
    return whole[begin : begin + len(whole) // degree].clone()


def convert(rank: int, num_ranks: int, degrees: tuple[int, ...]) -> None:
    """Reduce and gather between all pairs of degrees of a chain."""
    length = 48 * max(degrees)
    with fabric_of(num_ranks, degrees) as (fabric, chain):
        for inner, outer in itertools.combinations_with_replacement((1, *degrees), 2):
            group = chain.group(rank, inner, outer)
            total = torch.stack([whole_of(r, length) for r in group]).sum(0)
            part = torch.ones(length // outer, dtype=torch.float64)
            back = torch.empty(length // inner, dtype=torch.float64)

            fabric.reduce(
                shard_of(chain, rank, inner, whole_of(rank, length)),
                part,
                inner=inner,
                outer=outer,
                inside="full",
                across="full",
            ).wait()
            fabric.gather(part, back, inner=inner, outer=outer, wire="full").wait()

            assert torch.equal(part, shard_of(chain, rank, outer, total) + 1), (inner, outer)
            if inner == 1 or outer == inner:
                assert torch.equal(back, shard_of(chain, rank, inner, total) + 1), (inner, outer)
            source = whole_of(99, length)
            fabric.gather(
                shard_of(chain, rank, outer, source), back, inner=inner, outer=outer, wire="full"
            ).wait()
            assert torch.equal(back, shard_of(chain, rank, inner, source)), (inner, outer)


@pytest.mark.parametrize("degrees", CHAINS, ids=str)
def test_conversions_are_plain_sums_and_copies(ranks: Ranks, degrees: tuple[int, ...]) -> None:
    """Between all degrees: a reduction adds the plain sum, and a gather undoes the partition.

    Exactly, in float64.
    """
    ranks(8).run(convert, degrees)


def sum_replicas(rank: int, num_ranks: int, wire: Wire) -> None:
    """Sum shards over their replicas, for each degree."""
    length = 8 * 37
    # A piece is 37 values of 8 bytes each; in INT8 two whole blocks of 32, with their scales.
    piece_bytes = 37 * 8 if wire == "full" else 2 * (32 + 4)
    with fabric_of(num_ranks, (2, 4)) as (fabric, chain):
        for degree in (1, 2, 4):
            group = chain.group(rank, degree, num_ranks)
            values = [shard_of(chain, r, degree, whole_of(r, length)) for r in group]
            mine = values[group.index(rank)].clone()

            fabric.all_reduce(mine, degree=degree, inside=wire, across=wire).wait()

            # int8: half a step of each summand, then of the sum; a step is a 127th of the largest.
            summands = sum(value.abs().max().item() for value in values)
            tolerance = 0 if wire == "full" else (0.501 * 2 * summands) / 127
            error = (mine - torch.stack(values).sum(0)).abs().max().item()
            assert error <= tolerance, degree
            assert (error > 0) == (wire == "int8"), degree
            received = fabric.take_counts().received_bytes
            assert list(received.values()) == [2 * (len(group) - 1) * piece_bytes], degree


@pytest.mark.parametrize("wire", ["full", "int8"])
def test_replicas_are_summed_in_place(ranks: Ranks, wire: Wire) -> None:
    """All replicas of a shard end with their sum, also if its length is no multiple of theirs.

    Quantized, each sends whole blocks: the kernels of GPUs do no others of odd lengths.
    """
    ranks(8).run(sum_replicas, wire)


def sum_replicas_often(rank: int, num_ranks: int, beta: float | None) -> tuple[float, float]:
    """Sum the same replicas in four bits, again and again.

    Returns:
        The largest error of one sum, and of the sum of all.
    """
    length, times = 8 * 64, 40
    errors = None
    if beta is not None:
        errors = ErrorFeedback(beta=beta, reset_steps=1000, block_size=BLOCK)
    values = torch.stack([whole_of(r, length, torch.float32) for r in range(num_ranks)])
    total = torch.zeros(length)
    with fabric_of(num_ranks, ()) as (fabric, _):
        for _ in range(times):
            mine = values[rank].clone()
            fabric.all_reduce(
                mine, degree=1, inside="int4", across="int4", errors=errors, key="a unit"
            ).wait()
            total += mine
    first = (mine - values.sum(0)).abs().max().item()
    return first, (total - times * values.sum(0)).abs().max().item()


def test_what_replicas_lose_comes_with_the_next_ones(ranks: Ranks) -> None:
    """Of 40 equal sums no more is lost than of one or two; without feedback, 40 times as much.

    Both by the ranks that send their values, and by those that send the sum of a piece on.
    """
    fed_back = ranks(4).run(sum_replicas_often, 1.0)
    plain = ranks(4).run(sum_replicas_often, None)

    # With beta = 1 the sums telescope: what is missing is the last error of each half, besides the
    # rounding of 40 errors kept in 8 bits, each at most 1/254 of an error.
    assert all(all_of_them < 3 * one * (1 + 40 / 254) for one, all_of_them in fed_back)
    assert all(all_of_them > 39 * one > 0 for one, all_of_them in plain)


def sum_as_on_gpus(
    rank: int, num_ranks: int, degrees: tuple[int, ...]
) -> tuple[list[torch.dtype], dict[str, int]]:
    """Reduce bfloat16 over all ranks where the backend adds.

    Returns:
        In which types it has added, and the bytes received.
    """
    length = 8 * 16
    added: list[torch.dtype] = []
    plain = routes._reduce_flat

    def count(total: Tensor, rows: Tensor, *, group: dist.ProcessGroup) -> None:
        added.append(rows.dtype)
        plain(total, rows, group=group)

    # Small whole numbers, whose sums bfloat16 holds.
    values = [(whole_of(r, length) % 8).to(torch.bfloat16) for r in range(num_ranks)]
    with fabric_of(num_ranks, degrees) as (fabric, chain), pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "_reduce_flat", count)
        patch.setattr(fabric, "_is_summed_by_backend", True)
        part = torch.zeros(length // 8)
        fabric.reduce(values[rank], part, inner=1, outer=8, inside="full", across="full").wait()
        received = fabric.take_counts().received_bytes

    total = torch.stack(values).sum(0, dtype=torch.float32)
    assert torch.equal(part, shard_of(chain, rank, 8, total))
    return added, received


@pytest.mark.parametrize(
    ("degrees", "added", "received"),
    [
        ((8,), torch.bfloat16, {CLUSTER: 7 * 16 * 2}),
        ((4, 8), torch.float32, {NODE: 3 * 32 * 2, CLUSTER: 16 * 4}),
    ],
)
def test_on_gpus_a_flat_hop_between_nodes_is_a_reduce_scatter(
    ranks: Ranks, degrees: tuple[int, ...], added: torch.dtype, received: dict[str, int]
) -> None:
    """Of bfloat16 in its own type: an exchange would bring each piece into a node per rank of it.

    Inside a node pieces are exchanged, and added in float32; between nodes, one rank of each, these
    sums are of the type to add in, and the backend's again. Bytes are those of an exchange.
    """
    assert ranks(8).run(sum_as_on_gpus, degrees) == [([added], received)] * 8


def gather_quantized(rank: int, num_ranks: int, wire: Wire) -> tuple[Tensor, Tensor]:
    """Gather over three hops, and again from what was kept on the way."""
    length, source = 8 * 50, torch.randn(8 * 50, generator=torch.Generator().manual_seed(0))
    with fabric_of(num_ranks, (2, 4, 8)) as (fabric, chain):
        shard = shard_of(chain, rank, 8, source)
        once, again = torch.empty(length), torch.empty(length)

        handle = fabric.gather(shard, once, inner=1, outer=8, wire=wire, keep=2)
        assert handle.kept is not None
        fabric.gather_kept(handle.kept, again).wait()
        handle.wait()

        assert handle.kept.payload.numel() == handle.kept.num_bytes
        assert torch.equal(shard, shard_of(chain, rank, 8, source))
        return once, again


@pytest.mark.parametrize(
    ("wire", "steps"), [("full", None), ("bfloat16", 256), ("int8", 2 * 127), ("int4", 2 * 7)]
)
def test_a_gather_quantizes_once_for_all(ranks: Ranks, wire: Wire, steps: int | None) -> None:
    """All ranks get the same bits, from the shards and from what was kept, own part included.

    After three hops the error is that of one quantization: half a step of a block's largest value.
    """
    results = ranks(8).run(gather_quantized, wire)

    source = torch.randn(8 * 50, generator=torch.Generator().manual_seed(0))
    for once, again in results:
        assert torch.equal(once, results[0][0])
        assert torch.equal(again, once)
    errors = (results[0][0] - source).abs()
    if steps is None:
        assert errors.max() == 0
    else:
        # Shards of 50 are a block of 32 and a short one of 18; 1.01 leaves room for round-off.
        blocks = [b for shard in source.view(8, 50) for b in shard.split(BLOCK)]
        bounds = torch.cat([block.abs().max().expand(len(block)) / steps for block in blocks])
        assert (errors <= 1.01 * bounds).all()
        assert errors.max() > 0


def reduce_quantized(rank: int, num_ranks: int, transport: Transport) -> float:
    """Reduce over two hops in four bits; return the largest error."""
    length = 8 * 64
    wholes = [whole_of(r, length, torch.float32) for r in range(num_ranks)]
    with fabric_of(num_ranks, (4, 8), transport) as (fabric, chain):
        part = torch.zeros(length // 8)

        fabric.reduce(
            wholes[rank],
            part,
            inner=1,
            outer=8,
            inside=transport.gradients,
            across=transport.sync,
        ).wait()

        total = torch.stack(wholes).sum(0)
        return (part - shard_of(chain, rank, 8, total)).abs().max().item()


@pytest.mark.parametrize("hadamard", [False, True])
def test_a_quantized_reduction_has_one_error_a_hop(ranks: Ranks, *, hadamard: bool) -> None:
    """Eight values lose half a step each inside the nodes, their two sums half a step between.

    Smoothed, a block's largest value may grow to its 2-norm, and an error to that of a block.
    """
    transport = Transport(gradients="int4", sync="int4", block_size=BLOCK, hadamard=hadamard)

    errors = ranks(8).run(reduce_quantized, transport)

    growth = BLOCK if hadamard else 1
    step = 1000 / 7
    assert 0 < max(errors) <= 1.01 * growth * (8 * step / 2 + 2 * 4 * (step + 1000 / 7) / 2)


def train_steps(rank: int, num_ranks: int, row: Partition, transport: Transport) -> dict[str, int]:
    """Move two units as an engine does, with accumulation 2; return what was received."""
    chain_degrees = row.degrees
    lengths = {"block": 8 * 96, "head": 8 * 32}
    dtype = torch.bfloat16
    with fabric_of(num_ranks, chain_degrees, transport) as (fabric, _):
        for name, length in lengths.items():
            weights = torch.ones(length // row.forward, dtype=dtype)
            sums = torch.zeros(length // row.gradients)
            full = torch.ones(length, dtype=dtype)
            handles: list[Handle] = []
            for _ in range(2):
                keep = row.backward if 1 < row.backward < row.forward else None
                out = torch.empty_like(full)
                handles.append(
                    fabric.gather(
                        weights,
                        out,
                        inner=1,
                        outer=row.forward,
                        wire=transport.weights,
                        keep=keep,
                    )
                )
                kept = handles[-1].kept
                if name == "block" and kept is not None:
                    handles.append(fabric.gather_kept(kept, torch.empty_like(full)))
                elif name == "block" and row.backward > 1:
                    handles.append(
                        fabric.gather(
                            weights,
                            torch.empty_like(full),
                            inner=1,
                            outer=row.forward,
                            wire=transport.weights,
                        )
                    )
                handles.append(
                    fabric.reduce(
                        full,
                        sums,
                        inner=1,
                        outer=row.gradients,
                        inside=transport.gradients,
                        across=transport.sync,
                    )
                )
            synced = torch.zeros(length // row.optimizer)
            handles.append(
                fabric.reduce(
                    sums,
                    synced,
                    inner=row.gradients,
                    outer=row.optimizer,
                    inside=transport.gradients,
                    across=transport.sync,
                )
            )
            handles.append(
                fabric.all_reduce(
                    synced,
                    degree=row.optimizer,
                    inside=transport.gradients,
                    across=transport.sync,
                )
            )
            for handle in handles:
                handle.wait()
            handles.clear()
            handle = fabric.gather(
                synced,
                weights,
                inner=row.forward,
                outer=row.optimizer,
                wire=transport.refresh,
            )
            handle.wait()
        fabric.sum_scalars(torch.ones(2))
        received = fabric.take_counts().received_bytes
        assert not fabric.take_counts().received_bytes
    del rank
    return {level: received[level] for level in MINI.level_names() if received.get(level)}


PARTITIONS = {
    "zero1": Partition(forward=1, backward=1, gradients=1, optimizer=8),
    "zero2": Partition(forward=1, backward=1, gradients=8, optimizer=8),
    "zero3": Partition(forward=8, backward=8, gradients=8, optimizer=8),
    "zeropp": Partition(forward=8, backward=4, gradients=8, optimizer=8),
    "mics": Partition(forward=4, backward=4, gradients=4, optimizer=4),
    "zero_topo": Partition(forward=2, backward=2, gradients=4, optimizer=8),
    "own": Partition(forward=4, backward=2, gradients=2, optimizer=4),
}
QUANTIZED = Transport(
    weights="int8", gradients="int4", sync="bfloat16", refresh="int8", block_size=BLOCK
)


@pytest.mark.parametrize("row", PARTITIONS)
def test_bytes_are_those_of_the_closed_form(ranks: Ranks, row: str) -> None:
    """On every rank and level, plain and quantized, a train step receives what is computed."""
    units = [UnitSize(8 * 96), UnitSize(8 * 32, backward_gathers=0)]

    for transport in (Transport(block_size=BLOCK), QUANTIZED):
        received = ranks(8).run(train_steps, PARTITIONS[row], transport)

        for rank in range(8):
            assert received[rank] == expected_bytes(
                units,
                PARTITIONS[row],
                transport,
                MINI,
                num_ranks=8,
                items=ElementBytes(weights=2, sums=4, optimizer=12),
                accumulation=2,
                rank=rank,
            )


def use_both_lanes(rank: int, num_ranks: int) -> None:
    """Begin many gathers and reductions, and wait for them from the last to the first."""
    length = 8 * 64
    with fabric_of(num_ranks, (2, 4, 8)) as (fabric, chain):
        total = torch.stack([whole_of(r, length) for r in range(num_ranks)]).sum(0)
        shard = shard_of(chain, rank, 8, total)
        outs = [torch.empty(length, dtype=torch.float64) for _ in range(10)]
        sums = torch.zeros(length // 8, dtype=torch.float64)
        mine = whole_of(rank, length)
        handles = []
        for out in outs:
            handles.append(fabric.gather(shard, out, inner=1, outer=8, wire="full"))
            handles.append(
                fabric.reduce(mine, sums, inner=1, outer=8, inside="full", across="full")
            )

        for handle in reversed(handles):
            handle.wait()

        assert all(torch.equal(out, total) for out in outs)
        assert torch.equal(sums, 10 * shard)


def test_both_lanes_work_at_once(ranks: Ranks) -> None:
    """Twenty collectives under way do not disturb each other."""
    ranks(8).run(use_both_lanes)


def overtake(rank: int, num_ranks: int, late_s: float) -> dict[str, float]:
    """Rank 0 gathers late: the others' reductions are done before their gathers."""
    whole = torch.ones(8)
    with fabric_of(num_ranks, (4, 8)) as (fabric, _):
        shard, out, part = whole[:1].clone(), torch.zeros(8), torch.zeros(1)
        if rank != 0:
            gathered = fabric.gather(shard, out, inner=1, outer=8, wire="full")

        fabric.reduce(whole, part, inner=1, outer=8, inside="full", across="full").wait()
        fabric.take_counts()
        assert out[1] == 0
        dist.barrier()  # all have seen that, and are about to wait
        if rank == 0:
            time.sleep(late_s)
            gathered = fabric.gather(shard, out, inner=1, outer=8, wire="full")
        gathered.wait()
        exposed = fabric.exposed_s
        gathered.wait()
        assert fabric.exposed_s == exposed
        assert torch.equal(out, whole)
        assert part.item() == num_ranks
        return fabric.take_counts().exposed_s


def test_a_reduction_overtakes_a_gather_and_the_wait_is_told(ranks: Ranks) -> None:
    """The lanes do not wait for each other, nor the caller for them; if it does, it is told.

    The time counts once, for the widest level of the gather, which is the cluster's.
    """
    for late_s in (0.1, 0.4, 1.6):  # a busy machine may keep rank 4 from waiting at first
        exposed = ranks(8).run(overtake, late_s)
        assert all(list(seconds) == [CLUSTER] for seconds in exposed)
        if exposed[4][CLUSTER] > late_s / 2:
            break

    # Rank 4 gathers with rank 0 first of all, and waits about as long as that sleeps.
    assert late_s / 2 < exposed[4][CLUSTER] < late_s + 10


def fail_in_a_lane(rank: int, num_ranks: int) -> None:
    """Give all ranks a vector that is too short for what is gathered."""
    with fabric_of(num_ranks, (4, 8)) as (fabric, _):
        shard, short, good = torch.ones(1), torch.zeros(7), torch.zeros(8)

        bad = fabric.gather(shard, short, inner=1, outer=8, wire="int8")
        after = fabric.gather(shard, good, inner=1, outer=8, wire="full")
        total = torch.zeros(1)
        fabric.reduce(good, total, inner=1, outer=8, inside="full", across="full").wait()

        for _ in range(2):
            with pytest.raises(RuntimeError, match="invalid for input of size 7"):
                bad.wait()
        with pytest.raises(LaneFailedError, match=r"'gathers' has failed before.*size 7"):
            after.wait()
        assert good.sum() == 0, rank


def test_a_failure_is_raised_where_it_is_waited_for(ranks: Ranks) -> None:
    """Whatever fails in a lane is raised at its wait, each time; what comes after is not tried.

    The other lane goes on.
    """
    ranks(8).run(fail_in_a_lane)


def lose_a_rank(rank: int, num_ranks: int) -> None:
    """Rank 1 dies, while the others wait for it."""
    with fabric_of(num_ranks, (4,)) as (fabric, _):
        dist.barrier()  # all have made their fabric
        if rank == 1:
            os._exit(7)
        handle = fabric.gather(torch.ones(1), torch.ones(4), inner=1, outer=4, wire="full")

        with pytest.raises(RuntimeError, match="gloo"):
            handle.wait()


def test_a_dead_rank_ends_the_wait_of_all_others(ranks: Ranks) -> None:
    """Its neighbours in the ring get an error; when they end their fabric, the others do, too."""
    with pytest.raises(RanksFailedError) as failed:
        ranks(4).run(lose_a_rank)

    assert str(failed.value).strip() == "rank 1:\nended with 7"


def connect_with_one_late(rank: int, num_ranks: int) -> tuple[float, float]:
    """Make a fabric while the last rank is slow to see its connections; say when both were done."""
    plain = dist.new_group

    def made_late(*arguments: Any, **named: Any) -> Any:
        group = plain(*arguments, **named)
        if rank == num_ranks - 1:
            time.sleep(0.02)
        made.append(time.monotonic())
        return group

    made: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "new_group", made_late)
        with fabric_of(num_ranks, (2, 4)):
            return made[-1], time.monotonic()


def test_no_rank_goes_on_before_all_are_connected(ranks: Ranks) -> None:
    """One that ends its fabric at once would be a lost peer to a rank that still connects."""
    connected, went_on = zip(*ranks(4).run(connect_with_one_late), strict=True)

    assert min(went_on) > max(connected)


def refuse(rank: int, num_ranks: int) -> None:
    """Ask for what cannot be."""
    with pytest.raises(ValueError, match="a chain of 8 ranks, in a job of 4"):
        Fabric(MINI, Chain(8, (8,)), Transport(), torch.device("cpu"))
    with fabric_of(num_ranks, (2, 4)) as (fabric, _):
        for keep in (1, 4):
            with pytest.raises(ValueError, match=f"degree {keep} is not between 1 and 4"):
                fabric.gather(
                    torch.ones(1), torch.ones(4), inner=1, outer=4, wire="full", keep=keep
                )
    del rank


def test_wrong_degrees_are_refused(ranks: Ranks) -> None:
    """The number of ranks of the chain, and the degree to keep, are checked."""
    ranks(4).run(refuse)


def level_of_a_node_row(rank: int, num_ranks: int) -> set[str]:
    """Gather from all ranks of a job that fits on one node."""
    with fabric_of(num_ranks, (4,)) as (fabric, _):
        fabric.gather(torch.ones(1), torch.ones(4), inner=1, outer=4, wire="full").wait()
        del rank
        return set(fabric.take_counts().received_bytes)


def test_a_job_on_one_node_never_reaches_the_cluster(ranks: Ranks) -> None:
    """Its widest level is the node."""
    assert ranks(4).run(level_of_a_node_row) == [{NODE}] * 4
