"""The planner: its tables are the cost model's, its bound is one, and pruning loses nothing."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from configs.engines import engine_faults
from configs.sharding import ROWS, Partition, named_partition
from configs.topology import Topology, load_topology
from configs.training import TrainingExperiment
from configs.training_memory import predicted_memory
from configs.transport import TRANSPORTS, Transport, named_transport
from tasks.zero.cost_model import predict
from tasks.zero.planner import plan
from tasks.zero.planning.candidates import Candidates
from tasks.zero.planning.plans import Plan, PlanError, Wish
from tasks.zero.planning.search import Search
from tasks.zero.planning.space import (
    all_passes,
    nested_degrees,
    nested_partitions,
    num_rounded,
    passing,
    searched_transports,
)
from tests.unit.zero.cost_machines import SMALL, machine, training

FRONTIER: dict[str, Any] = {
    "model": "gpt-20b",
    "sequence": 2048,
    "ranks": 384,
    "topology": "frontier",
    "partition": "zero3",
}
GB_64 = 64 * 10**9
FRONTIER_NODES = 9856
MACHINES = [
    "aurora",
    "dgx-a100",
    "dgx-h100",
    "frontier",
    "frontier-calibrated",
    "perlmutter",
    "summit",
]
"""Shipped ones whose links and rates are known."""

ALL_TRANSPORTS = [
    Transport(weights=weights, gradients=sums, sync=sync, refresh=refresh, reuse_secondary=reuses)
    for weights, sums, sync, refresh, reuses in itertools.product(
        ("full", "int8"),
        ("full", "int8", "int4"),
        ("full", "bfloat16", "int8", "int4"),
        ("full", "bfloat16", "int8"),
        (False, True),
    )
]
ALL_TRANSPORTS += [
    Transport(gradients="int8", sync=sync, hadamard=True) for sync in ("full", "int8", "int4")
]

floats = st.floats(0.0, 1.0)


@st.composite
def links(draw: st.DrawFn, slowest: float) -> dict[str, Any]:
    """Return a link of any kind, within a factor of 100 of the slowest."""
    return {
        "gb_per_s": slowest * 100 ** draw(floats),
        "shared_by": draw(st.sampled_from([1, 2, 4])),
        "latency_us": draw(st.sampled_from([0.0, 10.0])),
        "interference": draw(st.sampled_from([0.0, 0.5])),
        "algorithm": draw(st.sampled_from(["ring", "direct", "recursive"])),
    }


@st.composite
def bases(draw: st.DrawFn) -> TrainingExperiment:
    """Return a training on any machine, wide enough that padding to whole blocks is little."""
    topology = machine(
        levels=[
            {"name": "package", "ranks": 2, "link": draw(links(1.0))},
            {"name": "node", "ranks": 4, "link": draw(links(1.0))},
        ],
        network=draw(links(0.1)),
        device={
            "memory_gb_per_s": 10 * 100 ** draw(floats),
            "quantize_us": draw(st.sampled_from([0.0, 20.0])),
            "visit_us": draw(st.sampled_from([0.0, 50.0])),
            "collective_us": draw(st.sampled_from([0.0, 20.0])),
            "optimizer_us": draw(st.sampled_from([0.0, 50.0])),
            "rates": {
                dtype: [{"gflops": 1.0, "tflops": 0.1 * 1000 ** draw(floats)}]
                for dtype in ("bfloat16", "float32")
            },
        },
    )
    return training(
        model=SMALL
        | {"hidden": 2048, "layers": draw(st.integers(1, 5)), "tied": draw(st.booleans())},
        ranks=draw(st.sampled_from([1, 2, 4, 8, 12])),
        topology=topology,
        partition="zero3",
        dtype=draw(st.sampled_from(["bfloat16", "float32"])),
    )


def search_of(base: TrainingExperiment, sequences: int) -> Search:
    """Return a search among all formats, without a limit of memory."""
    return Search(base, all_passes(sequences, (0, 1, 2)), ALL_TRANSPORTS, [], 10**18)


def some_of(search: Search, number: int, seed: int) -> Candidates:
    """Return candidates at random."""
    rng = np.random.default_rng(seed)
    passes, partition = np.nonzero(search.fits)
    chosen = rng.integers(0, len(passes), number)
    return Candidates(
        passes[chosen],
        partition[chosen],
        rng.integers(0, len(search.transports), number),
        np.zeros(number),
    )


def as_experiment(search: Search, some: Candidates, number: int) -> TrainingExperiment:
    """Return a candidate as a training."""
    return passing(search.base, search.passes[some.passes[number]]).model_copy(
        update={
            "partition": search.parts.partition(int(some.partition[number])),
            "transport": search.transports[some.transport[number]],
        }
    )


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8, 12, 24])
def test_partitions_are_all_that_nest(num_ranks: int) -> None:
    """Every partition of degrees that nest with the machine's levels, and no other, once."""
    topology = machine()
    degrees = nested_degrees(topology, num_ranks).tolist()

    found = nested_partitions(topology, num_ranks)

    all_of_them = [
        Partition(forward=f, backward=b, gradients=g, optimizer=o)
        for f, b, g, o in itertools.product(degrees, repeat=4)
    ]
    expected = {one for one in all_of_them if not list(one.faults(num_ranks, "partition"))}
    listed = [found.partition(number) for number in range(len(found))]
    assert len(listed) == len(set(listed))
    assert set(listed) == expected
    assert all(
        degree % size == 0 or size % degree == 0
        for degree in degrees
        for size in (2, 4)
        if num_ranks % size == 0
    )


@settings(max_examples=20, deadline=None)
@given(bases(), st.integers(1, 6), st.integers(0, 10**6))
def test_times_are_those_of_the_cost_model_and_bounds_are_below(
    base: TrainingExperiment, sequences: int, seed: int
) -> None:
    """A candidate's memory and time are what ``predict`` says; its bound, and ideal one, less."""
    search = search_of(base, sequences)
    some = some_of(search, 12, seed)

    timed = search.timed(some).step_s
    bounds = search.bounds(some)
    ideal = search.ideal_bounds()[some.passes, some.partition]

    predicted = [predict(as_experiment(search, some, number)) for number in range(len(some))]
    step_s = np.array([one.step_s for one in predicted])
    # Pieces of sums over replicas are rounded up to whole blocks in the one alone.
    assert timed == pytest.approx(step_s, rel=1e-3)
    assert search.memory_of(some).tolist() == [one.peak_bytes for one in predicted]
    assert (bounds <= timed * (1 + 1e-9)).all()
    assert (ideal <= bounds * (1 + 1e-9)).all()


@settings(max_examples=20, deadline=None)
@given(bases(), st.integers(1, 6), st.integers(0, 10**6))
def test_no_timeline_is_shorter_than_its_bound(
    base: TrainingExperiment, sequences: int, seed: int
) -> None:
    """The same of hundreds of candidates at a time, in the arrays of the planner alone."""
    search = search_of(base, sequences)
    some = some_of(search, 400, seed)

    bounds = search.bounds(some)

    assert (bounds <= search.timed(some).step_s * (1 + 1e-9)).all()
    assert (search.ideal_bounds()[some.passes, some.partition] <= bounds * (1 + 1e-9)).all()


@pytest.mark.parametrize("topology", ["frontier", "perlmutter"])
def test_the_bound_of_what_is_fast_is_nearly_its_time(topology: str) -> None:
    """Where computing prevails, as on these machines, to a thousandth: so few need to be timed."""
    search = Search(
        training(**FRONTIER | {"topology": topology}),
        all_passes(5),
        searched_transports(training(**FRONTIER), is_exact=False),
        [],
        4 * 10**10,
    )

    found = search.run([]).timed.take(slice(100))

    assert (found.step_s <= search.bounds(found) * (1 + 1e-3)).all()


@pytest.mark.parametrize("seed", range(3))
def test_pruning_finds_the_best_of_all(seed: int) -> None:
    """No candidate at all, in any format, with any prefetch, is faster than what is found."""
    rng = np.random.default_rng(seed)
    topology = machine(
        levels=[
            {"name": "package", "ranks": 2, "link": {"gb_per_s": 10 ** rng.uniform(0, 2)}},
            {"name": "node", "ranks": 4, "link": {"gb_per_s": 10 ** rng.uniform(0, 2)}},
        ],
        network={"gb_per_s": 10 ** rng.uniform(-1, 1.5), "latency_us": float(seed)},
    )
    base = training(topology=topology, partition="zero3")
    limit = int(10 ** rng.uniform(7.4, 8.2))

    found = plan(Wish(base, base.ranks * base.sequence * 2, limit))

    search = Search(base, all_passes(2, (0, 1, 2)), ALL_TRANSPORTS, [], limit)
    every = everything(search)
    best = every.step_s.min()
    assert found.listed[0].step_s == pytest.approx(best, rel=1e-6)
    assert best <= found.best.step_s <= best * (1 + 1e-3) * (1 + 1e-6)
    assert found.num_fitting < len(every)


@settings(max_examples=15, deadline=None)
@given(
    base=bases(),
    sequences=st.integers(1, 2),
    room=st.floats(0.0, 1.0),
    is_exact=st.booleans(),
)
def test_a_plan_is_the_best_of_all_candidates(
    base: TrainingExperiment, *, sequences: int, room: float, is_exact: bool
) -> None:
    """Timing everything finds the same fastest one, and nothing simpler that is as fast."""
    wish = Wish(base, base.ranks * base.sequence * sequences, int(2e7 * 50**room), is_exact)
    formats = searched_transports(base, is_exact=is_exact)
    search = Search(base, all_passes(sequences), formats, [], wish.memory_bytes)
    event(f"{'some' if search.num_fitting else 'none'} fit")
    if not search.num_fitting:
        return

    found = plan(wish)

    every = everything(search)
    memory = search.memory_of(every)
    best_s = every.step_s.min()
    rows_s = [row.choice.step_s for row in found.rows]  # never slower than any of these
    as_fast = np.flatnonzero(every.step_s <= min([best_s * (1 + 1e-3) * (1 - 1e-9), *rows_s]))
    simplest = min(
        ((num_rounded(formats[every.transport[n]]), memory[n]) for n in as_fast),
        default=(len(formats), 0),
    )
    assert found.listed[0].step_s <= best_s * (1 + 1e-9)
    # What is told is the cost model's; tables of hops that take all of the device are lines, too.
    assert found.best.step_s <= best_s * (1 + 1e-2)
    assert (num_rounded(found.best.experiment.transport), found.best.memory_bytes) <= simplest


def everything(search: Search) -> Candidates:
    """Time all candidates of a search."""
    passes, partition = np.nonzero(search.fits)
    transport = np.arange(len(search.transports))
    every = Candidates(
        np.repeat(passes, len(transport)),
        np.repeat(partition, len(transport)),
        np.tile(transport, len(passes)),
        np.zeros(len(passes) * len(transport)),
    )
    return search.timed(every)


@settings(max_examples=6, deadline=None)
@given(bases(), st.integers(1, 2), st.floats(0.0, 1.0))
def test_never_worse_than_a_named_row(
    base: TrainingExperiment, sequences: int, room: float
) -> None:
    """Nothing named that fits, in any named format, with any pass, is predicted to be faster."""
    limit = int(2e7 * 50**room)
    wish = Wish(base, base.ranks * base.sequence * sequences, limit)

    rows = [
        passing(base, one).model_copy(update={"partition": row, "transport": named_transport(name)})
        for one in all_passes(sequences)
        for row in dict.fromkeys(ROWS)
        for name in TRANSPORTS
        if not list(named_partition(row, base.topology, base.ranks).faults(base.ranks, ""))
    ]
    fitting = [one for one in rows if predicted_memory(one).total <= limit]
    event(f"{'some' if fitting else 'no'} rows fit")

    try:
        found = plan(wish)
    except PlanError:
        assert not fitting
        return
    if found.best.experiment.prefetch == 0:  # where nothing else fits
        assert not fitting
        return
    predictions = [predict(one) for one in fitting]
    assert found.prediction.peak_bytes <= limit
    assert found.prediction.step_s == pytest.approx(found.best.step_s, rel=1e-3)
    assert found.prediction.tokens_per_s >= (1 - 2e-4) * max(
        (one.tokens_per_s for one in predictions), default=0.0
    )
    names = {name for row in found.rows for name in row.names}
    assert names == {str(one.partition) for one in fitting}


def test_frontier_is_planned_in_few_evaluations() -> None:
    """20B on 384 GCDs: hundreds are timed, of a million; on all 78,848 no more than that."""
    small = plan(Wish(training(**FRONTIER), 4_000_000, GB_64))
    whole = training(**FRONTIER | {"ranks": FRONTIER_NODES * 8})
    large = plan(Wish(whole, 400_000_000, GB_64))

    assert small.best.experiment.tokens_per_step == 384 * 2048 * 5
    assert small.num_candidates > 10**6
    assert small.num_timed < 1_000
    assert small.best.step_s <= small.rows[0].choice.step_s
    assert large.num_candidates > 10**7
    assert large.num_timed < 1_000


@pytest.mark.parametrize("topology", MACHINES)
def test_nothing_is_missed_on_shipped_machines(topology: str) -> None:
    """For 20B on 10,000 devices nothing that was not timed is faster by more than a tie."""
    per_node = load_topology(topology).ranks_per_node
    base = training(**FRONTIER | {"topology": topology, "ranks": 10_000 // per_node * per_node})

    found = plan(Wish(base, base.ranks * 2048 * 5, base.topology.device.memory_bytes or GB_64))

    assert found.possible_gain <= 1e-3


def test_the_list_is_sorted() -> None:
    """It is of distinct partitions, from the fastest; what is shown fits."""
    found = plan(Wish(training(**FRONTIER), 4_000_000, GB_64))

    listed = [one.experiment.degrees for one in found.listed]
    assert len(set(listed)) == len(listed) == 10
    assert [one.step_s for one in found.listed] == sorted(one.step_s for one in found.listed)
    assert all(one.memory_bytes <= GB_64 for one in (*found.listed, *found.front))


def assert_is_front(found: Plan) -> None:
    """Hold that a front begins with the best one, and that less memory costs speed along it."""
    assert found.front[0] == replace(found.best, worse_s=None)
    assert len(found.front) <= 10
    memory = [one.memory_bytes for one in found.front]
    assert all(less < more for more, less in itertools.pairwise(memory))
    leaner = [one.step_s for one in found.front[1:]]
    assert all(fast < slow for fast, slow in itertools.pairwise(leaner))
    # What is simpler, as the best one may be, is a tie with what is faster by 0.1 %; both are told
    # as ``predict`` says, which differs from the arrays by less than 0.1 %.
    assert all(found.best.step_s <= step_s * (1 + 2e-3) for step_s in leaner)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize(
    ("topology", "model", "num_ranks", "num_tokens"),
    [
        ("frontier-calibrated", "gpt-20b", 384, 12_000_000),
        ("frontier-calibrated", "gpt-125m", 64, 12_000_000),
        ("frontier", "gpt-20b", 384, 4_000_000),
        ("perlmutter", "gpt-20b", 384, 4_000_000),
        ("perlmutter", "gpt-125m", 384, 4_000_000),
        ("summit", "gpt-1.3b", 384, 4_000_000),
        ("dgx-a100", "gpt-1.3b", 64, 4_000_000),
    ],
)
def test_the_front_goes_from_the_best_one_to_the_leanest(
    topology: str, model: str, num_ranks: int, num_tokens: int, prefetch: int
) -> None:
    """Each point needs less memory and more time than the one before; the first is the best."""
    changes = {"topology": topology, "model": model, "ranks": num_ranks}
    base = training(**FRONTIER | changes)
    limit = base.topology.device.memory_bytes or GB_64

    found = plan(Wish(base, num_tokens, limit, prefetches=(prefetch,)))

    assert_is_front(found)
    assert len(found.front) > 2


@settings(max_examples=15, deadline=None)
@given(bases(), st.integers(1, 4), st.floats(0.0, 1.0))
def test_the_front_is_one_on_any_machine(
    base: TrainingExperiment, sequences: int, room: float
) -> None:
    """The same where links, rates and memory are any; speeds near the best are not looked at.

    What is told of the best is ``predict``'s, which may differ here from the planner's arrays.
    """
    wish = Wish(base, base.ranks * base.sequence * sequences, int(2e7 * 50**room))
    try:
        found = plan(wish)
    except PlanError:
        return

    memory = [one.memory_bytes for one in found.front]
    assert found.front[0] == replace(found.best, worse_s=None)
    assert memory == sorted(set(memory), reverse=True)
    leaner = [one.step_s for one in found.front[1:]]
    assert leaner == sorted(set(leaner))


def test_without_rounding_nothing_is_rounded() -> None:
    """Where only exact formats are wanted, the best one and all rows have them."""
    found = plan(Wish(training(**FRONTIER), 4_000_000, GB_64, is_exact=True))

    chosen = [found.best, *found.listed, *(row.choice for row in found.rows)]
    assert all(num_rounded(one.experiment.transport) == 0 for one in chosen)


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp2"])
def test_other_engines_get_what_they_can_do(engine: str) -> None:
    """Every candidate shown for an engine is one that it accepts."""
    base = training(ranks=8, engine=engine, partition="zero3")

    found = plan(Wish(base, 8 * 128 * 4, 10**10))

    chosen = [found.best, *found.listed, *found.front, *(row.choice for row in found.rows)]
    assert found.rows
    assert not [fault for one in chosen for fault in engine_faults(one.experiment)]


def test_only_the_prefetch_that_is_wished_is_planned() -> None:
    """Without any, as calibrated machines may have it; of more to choose from nothing is slower."""
    plans = {
        prefetches: plan(Wish(training(), 8 * 128 * 4, 10**10, prefetches=prefetches))
        for prefetches in ((0,), (1, 2), (0, 1, 2))
    }

    alone, usual, every = plans.values()
    for prefetches, found in plans.items():
        chosen = [found.best, *found.listed, *found.front, *(row.choice for row in found.rows)]
        assert {one.experiment.prefetch for one in chosen} <= set(prefetches)
    assert every.best.step_s <= min(alone.best.step_s, usual.best.step_s) * (1 + 1e-3)
    assert every.num_candidates == alone.num_candidates + usual.num_candidates


def test_an_equal_candidate_that_rounds_less_is_chosen() -> None:
    """Where links cost nothing, nothing is quantized."""
    fast = {"gb_per_s": 1e9}
    topology = machine(
        levels=[
            {"name": "package", "ranks": 2, "link": fast},
            {"name": "node", "ranks": 4, "link": fast},
        ],
        network=fast,
    )

    found = plan(Wish(training(topology=topology, partition="zero3"), 8 * 128 * 2, 10**10))

    assert num_rounded(found.best.experiment.transport) == 0


def faults_of(wish: Wish) -> dict[str, str]:
    """Return the faults of a wish by path."""
    with pytest.raises(PlanError) as caught:
        plan(wish)
    assert str(caught.value)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_a_batch_that_is_too_small_is_refused_with_the_least_one() -> None:
    """Fewer tokens than a sequence for each device: the least number that would do is told."""
    faults = faults_of(Wish(training(**FRONTIER), 4096, GB_64))

    assert f"use {384 * 2048:,} or more" in faults["batch_tokens"]


@pytest.mark.parametrize("num_tokens", [160 * 10**9, 10**15])
def test_a_batch_that_is_too_large_is_refused_with_the_largest_one(num_tokens: int) -> None:
    """At once, whatever its size, and not as a model that is too large."""
    faults = faults_of(Wish(training(**FRONTIER | {"ranks": 8}), num_tokens, GB_64))

    assert faults.keys() == {"batch_tokens"}
    assert faults["batch_tokens"].endswith(f"use {8 * 2048 * 10**6:,} tokens at most")


def test_a_model_that_is_too_large_is_refused_with_the_devices_that_would_do() -> None:
    """The number of devices that is told does, and a node less does not."""
    has = 12 * 10**9
    faults = faults_of(Wish(training(**FRONTIER | {"ranks": 16}), 16 * 2048, has))

    words = faults["devices"]
    assert "do not fit on 16 devices of 12 GB" in words
    least = int(words.split("; ")[1].split(" ", 1)[0])
    enough = plan(Wish(training(**FRONTIER | {"ranks": least}), least * 2048, has))
    assert enough.best.memory_bytes <= has
    less = faults_of(Wish(training(**FRONTIER | {"ranks": least - 8}), least * 2048, has))
    assert f"{least} devices" in less["devices"]


def test_no_number_of_devices_may_do() -> None:
    """A device that cannot hold one block is told as such."""
    faults = faults_of(Wish(training(**FRONTIER), 4_000_000, 10**9))

    assert "no number of devices would do" in faults["devices"]


def test_all_that_a_machine_lacks_is_told_at_once() -> None:
    """Missing links and rates are all named, with where to write them and what measures them."""
    bare = Topology.model_validate(machine(network=None, device={}).model_dump() | {"name": "bare"})

    faults = faults_of(Wish(training(topology=bare, partition="zero3"), 10, 10**10))

    assert set(faults) == {
        "batch_tokens",
        "topology.network",
        "topology.device.rates",
        "topology.device.optimizer_gb_per_s",
        "topology.device.quantize_gb_per_s",
    }
    assert all("watershed calibrate" in faults[path] for path in faults if "." in path)


def test_searched_formats_are_distinct_and_simplest_first() -> None:
    """No format stands twice, and the first one rounds nothing."""
    for dtype in ("bfloat16", "float32"):
        found = searched_transports(training(dtype=dtype), is_exact=False)

        assert len({one.model_dump_json() for one in found}) == len(found)
        assert found[0] == Transport()
