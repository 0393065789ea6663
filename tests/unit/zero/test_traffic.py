"""Closed forms of bytes and memory, against the tables of the dossier ZeRO-topo, 2.4 and 2.5."""

from fractions import Fraction

import pytest

from configs.sharding import Partition, named_partition
from configs.topology import CLUSTER, NODE, Topology, load_topology
from configs.training import TrainingExperiment
from configs.training_memory import predicted_memory
from configs.transport import Transport
from tasks.zero.traffic import ElementBytes, Moves, UnitSize, expected_bytes, state_bytes

FRONTIER = load_topology("frontier")
PSI = 2**20 * 3
"""A number of parameters that all degrees and blocks divide, so that there is no padding."""
FP16 = ElementBytes(weights=2, sums=2, optimizer=12)
INT8 = Fraction(1) + Fraction(4, 256)
"""Bytes an element: one, and a scale of 4 bytes for 256."""
INT4 = Fraction(1, 2) + Fraction(4, 256)
FULL = Transport()
QUANTIZED = Transport(weights="int8", gradients="int4", sync="int4")
TOPO = Transport(weights="int8", gradients="int4")


def less_one(ranks: int) -> Fraction:
    """Return (n - 1) / n, the n' of the table."""
    return Fraction(ranks - 1, ranks)


def moved(
    row: str,
    transport: Transport,
    num_ranks: int,
    accumulation: int,
    unit: UnitSize = UnitSize(PSI),  # noqa: B008  frozen
) -> dict[str, int]:
    """Return the bytes of a train step of one unit, in FP16."""
    return expected_bytes(
        [unit],
        named_partition(row, FRONTIER, num_ranks),
        transport,
        FRONTIER,
        num_ranks=num_ranks,
        items=FP16,
        accumulation=accumulation,
    )


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("num_ranks", [16, 64])
def test_bytes_are_those_of_the_table(num_ranks: int, accumulation: int) -> None:
    """Every row of 2.4, per micro-batch and per step, where it crosses nodes and where it does not.

    The table's numbers for INT8 and INT4 are without scales; these are added here.
    """
    n, p, a = less_one(num_ranks), less_one(num_ranks // 8), accumulation
    eight, four = less_one(8), less_one(4)
    rail = Fraction(2 * PSI, 8) * p
    expected: dict[tuple[str, Transport], dict[str, Fraction]] = {
        ("ddp", FULL): {CLUSTER: 2 * 2 * PSI * n},
        ("zero1", FULL): {CLUSTER: 2 * 2 * PSI * n},
        ("zero2", FULL): {CLUSTER: a * 2 * PSI * n + 2 * PSI * n},
        ("zero3", FULL): {CLUSTER: a * 3 * 2 * PSI * n},
        # The forward gather and the gradients cross nodes on an eighth, the backward gather never.
        ("zeropp", QUANTIZED): {
            NODE: a * (INT8 + INT8 + INT4) * PSI * eight,
            CLUSTER: a * (INT8 + INT4) * PSI * Fraction(1, 8) * p,
        },
        ("mics", FULL): {NODE: a * 3 * 2 * PSI * eight, CLUSTER: 2 * rail},
        ("hsdp", FULL): {NODE: a * 3 * 2 * PSI * eight, CLUSTER: 2 * rail},
        ("hfsdp", FULL): {NODE: a * 3 * 2 * PSI * eight, CLUSTER: rail + rail},
        ("zero_topo", TOPO): {
            "package": a * 2 * INT8 * PSI * Fraction(1, 2),
            NODE: a * INT4 * PSI * eight + PSI * four,
            CLUSTER: rail + rail,
        },
        ("zero_topo", FULL): {
            "package": Fraction(a * 2 * PSI),
            NODE: a * 2 * PSI * eight + PSI * four,
            CLUSTER: rail + rail,
        },
    }

    for (row, transport), by_level in expected.items():
        assert moved(row, transport, num_ranks, accumulation) == by_level, row


def test_zeropp_moves_in_all_what_the_table_says() -> None:
    """Its forward gather brings N' of the model in INT8: the stop at the node costs nothing."""
    once = moved("zeropp", QUANTIZED, 64, 1, UnitSize(PSI, backward_gathers=0))

    gradients = INT4 * PSI * (less_one(8) + Fraction(1, 8) * less_one(8))
    assert sum(once.values()) == INT8 * PSI * less_one(64) + gradients


def test_only_what_is_left_of_a_step_crosses_nodes() -> None:
    """ZeRO-topo's bytes between nodes do not depend on the accumulation; ZeRO-3's do."""
    topo = [moved("zero_topo", TOPO, 64, a)[CLUSTER] for a in (1, 8)]
    zero3 = [moved("zero3", FULL, 64, a)[CLUSTER] for a in (1, 8)]

    assert topo[0] == topo[1]
    assert 8 * zero3[0] == zero3[1]


def test_quantized_sync_and_refresh_shrink_what_crosses_nodes() -> None:
    """INT4 sync and INT8 refresh bring 0.5 and 1 bytes an element instead of 2, and the scales."""
    transport = Transport(sync="int4", refresh="int8")

    moved_across = moved("zero_topo", transport, 64, 1)[CLUSTER]

    assert moved_across == (INT4 + INT8) * PSI * Fraction(1, 8) * less_one(8)


def test_a_unit_of_the_last_stage_is_gathered_once() -> None:
    """Without a second gather, ZeRO-3 moves two thirds; a unit used twice moves a third more."""
    whole = moved("zero3", FULL, 16, 2)[CLUSTER]

    assert moved("zero3", FULL, 16, 2, UnitSize(PSI, backward_gathers=0))[CLUSTER] * 3 == whole * 2
    assert moved("zero3", FULL, 16, 2, UnitSize(PSI, forward_gathers=2))[CLUSTER] * 3 == whole * 4


def test_frozen_units_are_only_gathered() -> None:
    """They have no gradient, no sync and no refresh."""
    frozen = moved("zero_topo", FULL, 16, 3, UnitSize(PSI, is_trainable=False))

    assert frozen == {"package": 3 * 2 * PSI}


def test_the_secondary_copy_replaces_later_forward_gathers() -> None:
    """With it, ZeRO++ crosses nodes for weights once a step, whatever the accumulation."""
    frozen = UnitSize(PSI, is_trainable=False)
    reusing = QUANTIZED.model_copy(update={"reuse_secondary": True})

    plain = moved("zeropp", QUANTIZED, 64, 4, frozen)
    reused = moved("zeropp", reusing, 64, 4, frozen)

    assert reused[CLUSTER] * 4 == plain[CLUSTER]
    assert reused[NODE] == plain[NODE]


def test_short_blocks_and_levels_count_in_full() -> None:
    """By hand: 40 elements in INT4 are 20 bytes and two scales, for blocks of 32."""
    mini = load_topology("mini")
    partition = Partition(forward=2, backward=2, gradients=1, optimizer=2)

    total = expected_bytes(
        [UnitSize(80, is_trainable=False)],
        partition,
        Transport(weights="int4", block_size=32),
        mini,
        num_ranks=2,
        items=FP16,
        accumulation=1,
    )

    assert total == {"package": 2 * (20 + 2 * 4)}


@pytest.mark.parametrize(
    ("transport", "row_length", "row_bytes"),
    [(FULL, 2475, 2 * 2475), (QUANTIZED, 10 * 256, 10 * (128 + 4))],
)
def test_pieces_of_replicas_are_whole_blocks(
    transport: Transport, row_length: int, row_bytes: int
) -> None:
    """By hand: a third of 7424 elements is 2475 for each of 3 replicas, or ten blocks in INT4."""
    alone = Partition(forward=1, backward=1, gradients=1, optimizer=1)

    (hop,) = Moves(alone, transport, load_topology("mini"), 3, FP16).all_reduction(7424)

    assert (hop.row_length, hop.row_bytes) == (row_length, row_bytes)
    assert hop.received_bytes == 2 * row_bytes


def per_parameter(row: str, num_ranks: int, items: ElementBytes = FP16) -> Fraction:
    """Return the bytes of model states of one parameter."""
    partition = named_partition(row, FRONTIER, num_ranks)
    return Fraction(kept(partition, FULL, num_ranks, items=items), PSI)


def kept(
    partition: Partition, transport: Transport, num_ranks: int, items: ElementBytes = FP16
) -> int:
    """Return the bytes that a rank of Frontier keeps of one unit."""
    return state_bytes(
        [UnitSize(PSI)], partition, transport, FRONTIER, num_ranks=num_ranks, items=items
    )


@pytest.mark.parametrize("sums", [2, 4])
@pytest.mark.parametrize("num_ranks", [8, 16, 64, 384])
def test_memory_is_that_of_the_table(num_ranks: int, sums: int) -> None:
    """Every formula of 2.5 for mixed-precision Adam; of one node, ZeRO++ has no copy of its own.

    Sums of 2 bytes an element are the table's; a run has those of 4. That an engine keeps what the
    closed form says is checked by ``test_engine.test_every_byte_is_counted``.
    """
    n, whole = Fraction(1, num_ranks), 2 + sums + 12
    secondary = Fraction(2, 8) if num_ranks > 8 else 0
    expected = {
        "ddp": Fraction(whole),
        "zero1": 2 + sums + 12 * n,
        "zero2": 2 + (sums + 12) * n,
        "zero3": whole * n,
        "zeropp": whole * n + secondary,
        "mics": Fraction(whole, 8),
        "hfsdp": Fraction(2 + sums, 8) + 12 * n,
        "zero_topo": Fraction(2, 2) + Fraction(sums, 8) + 12 * n,
    }

    items = ElementBytes(weights=2, sums=sums, optimizer=12)
    for row, value in expected.items():
        assert per_parameter(row, num_ranks, items) == value, row


def test_memory_of_the_two_models_is_that_of_the_table() -> None:
    """GB per GCD of 10 and 20.55 billion parameters on 8, 64 and 384 GCDs, as printed there."""
    with_sums = ElementBytes(weights=2, sums=4, optimizer=12)
    printed = {
        ("zero3", 10.0): (20, 2.5, 0.4),
        ("hfsdp", 10.0): (20, 6.9, 5.3),
        ("zero_topo", 10.0): (27.5, 14.4, 12.8),
        ("zero3", 20.55): (41.1, 5.1, 0.9),
        ("hfsdp", 20.55): (41.1, 14.1, 10.9),
        ("zero_topo", 20.55): (56.5, 29.5, 26.3),
    }

    for (row, billions), values in printed.items():
        for num_ranks, value in zip((8, 64, 384), values, strict=True):
            # Printed with one decimal.
            computed = float(per_parameter(row, num_ranks)) * billions
            assert computed == pytest.approx(value, abs=0.0501), (row, billions, num_ranks)
    topo = [float(per_parameter("zero_topo", ranks, with_sums)) for ranks in (8, 64, 384)]
    assert [10 * value for value in topo] == pytest.approx([30, 16.9, 15.3], abs=0.0501)
    assert [20.55 * value for value in topo] == pytest.approx([61.6, 34.7, 31.5], abs=0.0501)


def test_a_quantized_copy_between_the_passes_is_smaller() -> None:
    """It stays as it came over the wire: 1/8 of INT8 elements and scales in place of 2/8 bytes."""
    partition = named_partition("zeropp", FRONTIER, 64)

    plain, packed = kept(partition, FULL, 64), kept(partition, QUANTIZED, 64)

    assert plain - packed == (2 - INT8) * PSI / 8


@pytest.mark.parametrize(
    ("row", "transport", "shares"),
    [
        # The whole gradient, whatever its degree; at a stop, what is left of it.
        ("zero_topo", TOPO, [1]),
        ("zeropp", QUANTIZED, [1, 8]),
        ("zero3", QUANTIZED, [1]),
        ("zero_topo", QUANTIZED, [1, 8]),
        # Of replicas both halves: the sums of a shard, and the piece that a rank adds up.
        ("hsdp", QUANTIZED, [1, 8, 64]),
        ("ddp", QUANTIZED, [1, 64]),
        ("zero_topo", FULL, []),
        ("zero_topo", Transport(weights="int8", refresh="int8"), []),
    ],
)
def test_errors_are_kept_of_each_quantized_sum(
    row: str, transport: Transport, shares: list[int]
) -> None:
    """INT8 with scales of every value that a rank quantizes to be summed, once; on 64 GCDs.

    The closed form, without padding, is that of ``configs.training_memory``.
    """
    partition = named_partition(row, FRONTIER, 64)
    feeding = transport.model_copy(update={"error_feedback": True})
    experiment = TrainingExperiment.model_validate(
        {
            "kind": "training",
            "model": "gpt-20b",
            "topology": "frontier",
            "ranks": 64,
            "partition": row,
            "transport": feeding,
            "dtype": "bfloat16",
        }
    )

    errors = kept(partition, feeding, 64) - kept(partition, transport, 64)

    expected = sum(Fraction(INT8 * PSI, share) for share in shares)
    assert errors == expected
    parameters = experiment.model.num_parameters
    predicted = predicted_memory(experiment).errors
    assert predicted == pytest.approx(float(expected) * parameters / PSI, rel=1e-6)


def test_one_node_has_no_traffic_between_nodes() -> None:
    """On one node of Frontier no row reports bytes of the cluster."""
    topology: Topology = FRONTIER
    for row in ("ddp", "zero3", "zeropp", "mics", "zero_topo"):
        assert CLUSTER not in moved(row, FULL, topology.ranks_per_node, 2)
