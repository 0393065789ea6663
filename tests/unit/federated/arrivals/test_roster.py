"""Who can be drawn, and the count of returns, against lists that spell them out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.federated.arrivals.roster import ReturnCounts, Roster


@given(st.integers(1, 40), st.data())
def test_ranks_lead_to_those_present_in_order(num_ids: int, data: st.DataObject) -> None:
    """Rank r is the r-th id that is not absent."""
    absent = data.draw(st.sets(st.integers(0, num_ids - 1), max_size=num_ids - 1))
    present = [i for i in range(num_ids) if i not in absent]

    roster = Roster(num_ids, absent)

    assert roster.size == len(present)
    assert roster.ids(np.arange(roster.size)).tolist() == present


def test_a_sample_has_distinct_present_ids_in_any_order() -> None:
    """A sample repeats nobody, names nobody absent, and is not sorted."""
    roster = Roster(1000, range(0, 1000, 2))

    sample = roster.sample(np.random.default_rng(0), 400)

    assert len(set(sample.tolist())) == 400
    assert set(sample.tolist()) <= set(range(1, 1000, 2))
    assert sample.tolist() != sorted(sample.tolist())


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6))
def test_sequences_count_the_returns_of_each_worker(buffers: list[list[int]]) -> None:
    """The n-th return of a worker has sequence n - 1, also twice within one buffer."""
    counts = ReturnCounts(6)
    slow = [0] * 6

    for buffer in buffers:
        sequence = counts.add(np.array(buffer, dtype=np.int64))

        for worker, number in zip(buffer, sequence.tolist(), strict=True):
            assert number == slow[worker]
            slow[worker] += 1
    assert counts.counts.tolist() == slow
