"""A plan on a worse network: its times are the cost model's, and it warns where it has to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.topology import CLUSTER, load_topology
from configs.training import TrainingExperiment
from tasks.zero.cost_model import predict
from tasks.zero.planner import plan
from tasks.zero.planning.plans import Choice, Wish, fastest_when_worse
from tasks.zero.planning.worse_network import (
    LATENCY_US,
    SHARE,
    crossed_levels,
    worse_levels,
    worse_network,
    worse_steps,
)
from tests.unit.zero.cost_machines import machine, training

GB_64 = 64 * 10**9


def on(topology: str, ranks: int, **fields: object) -> TrainingExperiment:
    """Return a training of 20B on a shipped machine."""
    base = {"model": "gpt-20b", "sequence": 2048, "partition": "zero3", "topology": topology}
    return training(**base | {"ranks": ranks} | fields)


@pytest.mark.parametrize(
    ("num_ranks", "crossed", "worse"),
    [
        (1, (), ()),
        (2, ("package",), ("package",)),
        (4, ("package", "node"), ("package", "node")),
        (8, ("package", "node", CLUSTER), ("node", CLUSTER)),
    ],
)
def test_the_outermost_levels_of_a_job_are_worse(
    num_ranks: int, crossed: tuple[str, ...], worse: tuple[str, ...]
) -> None:
    """Two at most, and none that the job does not cross: half as fast, each message later."""
    before = machine()

    after = worse_network(before, num_ranks)

    assert crossed_levels(before, num_ranks) == crossed
    assert worse_levels(before, num_ranks) == worse
    for name in before.level_names():
        old, new = before.link(name), after.link(name)
        assert old is not None
        assert new is not None
        if name in worse:
            assert new.gb_per_s == SHARE * old.gb_per_s
            assert new.latency_us == old.latency_us + LATENCY_US
        else:
            assert new == old


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "partition": st.sampled_from(["zero1", "zero3", "zeropp", "zero_topo", "hfsdp"]),
                "transport": st.sampled_from(["full", "zeropp", "zero_topo"]),
                "micro_batch": st.integers(1, 2),
                "accumulation": st.integers(1, 4),
                "recompute": st.booleans(),
                "prefetch": st.integers(0, 2),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_times_are_those_of_the_cost_model(chosen: list[dict[str, object]]) -> None:
    """What is timed together is what ``predict`` says of each on the worse machine."""
    trainings = [training(**one) for one in chosen]

    found = worse_steps(trainings)

    worse = worse_network(machine(), 8)
    expected = [predict(one.model_copy(update={"topology": worse})).step_s for one in trainings]
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_split_over_all_devices_that_wins_at_peaks_is_overtaken() -> None:
    """20B on 8,192 GCDs: what is first on the worse network is also faster where it is calibrated.

    The plan at the peaks of all links says that its best one is ahead of it.
    """
    base = on("frontier", 8192)
    found = plan(Wish(base, 8192 * 2048 * 5, GB_64))

    first = found.best_when_worse()

    assert found.worse_levels == ("node", CLUSTER)
    assert first.step_s > found.best.step_s
    assert found.best.worse_s is not None
    assert first.worse_s is not None
    assert found.best.worse_s > 2 * first.worse_s
    calibrated = load_topology("frontier-calibrated")
    best_s, first_s = (
        predict(one.experiment.model_copy(update={"topology": calibrated})).step_s
        for one in (found.best, first)
    )
    assert best_s > 2 * first_s


def test_all_that_is_compared_is_timed_again() -> None:
    """The best one, the list and the rows; nothing for one device, which crosses no link."""
    found = plan(Wish(training(), 8 * 128 * 2, 10**10))
    alone = plan(Wish(training(ranks=1, partition="ddp"), 128 * 2, 10**10))

    shown = [found.best, *found.listed, *(row.choice for row in found.rows)]
    assert all(one.worse_s is not None and one.worse_s >= one.step_s for one in shown)
    assert alone.worse_levels == ()
    assert alone.best.worse_s is None
    assert alone.best_when_worse() is alone.best


def test_what_is_as_good_there_does_not_change_the_order() -> None:
    """Half a hundredth is no difference, two hundredths are."""
    first, equal, faster = (
        Choice(training(), step_s=1.0, memory_bytes=1, worse_s=seconds)
        for seconds in (2.0, 1.99, 1.96)
    )

    assert fastest_when_worse(first, [equal]) is first
    assert fastest_when_worse(first, [equal, faster]) is faster
