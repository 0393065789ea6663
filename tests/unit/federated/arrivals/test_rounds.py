"""Round-based arrivals: who comes how often, how late, and at what cost."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.arrivals import LabelCorrelated
from configs.federated import FederatedExperiment
from tasks.federated.arrivals import build
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.arrivals.registry import label_weights

MakeExperiment = Callable[..., FederatedExperiment]

_SIGMAS = 5
"""Tolerance of a measured frequency, in standard deviations of a binomial count.

Seeds are fixed, so a test passes always or never; at five deviations a correct law fails with a
probability below 1e-4 over all the counts of this file, and one that is off by a few percent does
not pass.
"""


def _buffers(
    experiment: FederatedExperiment, rounds: int, shares: NDArray[np.float64] | None = None
) -> Iterator[Arrivals]:
    process = build(experiment, shares)
    return (process.next_buffer(version) for version in range(rounds))


def _counts(buffers: Iterator[Arrivals], workers: int) -> NDArray[np.int64]:
    drawn = np.concatenate([buffer.worker for buffer in buffers])
    return np.bincount(drawn, minlength=workers)


def _assert_frequencies(
    counts: NDArray[np.int64], probabilities: NDArray[np.float64], draws: int
) -> None:
    deviation = np.sqrt(draws * probabilities * (1 - probabilities))
    assert (abs(counts - draws * probabilities) <= _SIGMAS * deviation).all()


def test_uniform_arrivals_are_equally_frequent(make_experiment: MakeExperiment) -> None:
    """Each of the present workers is in a share m / (number present) of the buffers."""
    experiment = make_experiment(
        workers=12, collect=4, arrivals={"kind": "uniform", "never_return": [3, 7]}
    )

    counts = _counts(_buffers(experiment, 3000), 12)

    present = np.full(12, 4 / 10)
    present[[3, 7]] = 0
    _assert_frequencies(counts, present, draws=3000)


def test_uniform_arrivals_do_not_depend_on_each_other(make_experiment: MakeExperiment) -> None:
    """Each pair meets in m(m-1) / M(M-1) of the buffers: a sample without replacement."""
    experiment = make_experiment(workers=6, collect=3, arrivals="uniform")
    meetings = np.zeros((6, 6), dtype=np.int64)

    for buffer in _buffers(experiment, 3000):
        meetings[np.ix_(buffer.worker, buffer.worker)] += 1

    pairs = meetings[np.triu_indices(6, k=1)]
    _assert_frequencies(pairs, np.full(15, 3 * 2 / (6 * 5)), draws=3000)


def test_weighted_arrivals_follow_their_weights(make_experiment: MakeExperiment) -> None:
    """Independent draws in proportion to the weights; zero weights and absent workers never."""
    experiment = make_experiment(
        workers=5,
        collect=5,
        arrivals={"kind": "weighted", "weights": [0.0, 9.0, 1.0, 2.0, 5.0], "never_return": [4]},
    )

    counts = _counts(_buffers(experiment, 2000), 5)

    _assert_frequencies(counts, np.array([0, 9, 1, 2, 0]) / 12, draws=10_000)


def test_huge_and_tiny_weights_are_only_compared(make_experiment: MakeExperiment) -> None:
    """Weights whose sum would overflow are used by their ratios."""
    experiment = make_experiment(
        workers=3, collect=1, arrivals={"kind": "weighted", "weights": [1.7e308, 1.7e308, 1e-300]}
    )

    counts = _counts(_buffers(experiment, 2000), 3)

    _assert_frequencies(counts, np.array([0.5, 0.5, 0.0]), draws=2000)


def test_label_weights_are_linear_in_the_favoured_share() -> None:
    """All favoured gives ratio, none gives one, and a quarter lies a quarter of the way."""
    shares = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.25, 0, 0.75]])

    weights = label_weights(LabelCorrelated(favoured_labels=(0, 1, 1), ratio=9.0), shares)

    np.testing.assert_allclose(weights, [9.0, 9.0, 1.0, 3.0], rtol=1e-15)


def test_label_correlated_arrivals_follow_the_label_shares() -> None:
    """Workers with favoured labels arrive in proportion to their weights 9 : 1 : 5."""
    experiment = FederatedExperiment.model_validate(
        {
            "workers": 3,
            "model": "logistic",
            "data": {"name": "digits", "partition": "iid"},
            "algorithm": {"name": "afa_cd", "collect": 3},
            "arrivals": {"kind": "label_correlated", "favoured_labels": [0], "ratio": 9.0},
        }
    )
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])

    counts = _counts(_buffers(experiment, 2000, shares), 3)

    _assert_frequencies(counts, np.array([9, 1, 5]) / 15, draws=6000)
    with pytest.raises(ValueError, match="needs the label shares"):
        build(experiment, None)


def test_a_schedule_is_round_robin_by_default(make_experiment: MakeExperiment) -> None:
    """Workers take turns in order, over the ends of buffers, without those who never return."""
    experiment = make_experiment(
        workers=5, collect=3, arrivals={"kind": "schedule", "never_return": [1]}
    )

    drawn = np.concatenate([b.worker for b in _buffers(experiment, 4)])

    assert drawn.tolist() == [0, 2, 3, 4] * 3


def test_a_given_order_is_repeated(make_experiment: MakeExperiment) -> None:
    """An order of its own is followed for ever; those who never return are skipped in it."""
    experiment = make_experiment(
        workers=3,
        collect=2,
        arrivals={"kind": "schedule", "order": [2, 2, 1, 0], "never_return": [1]},
    )

    drawn = np.concatenate([b.worker for b in _buffers(experiment, 3)])

    assert drawn.tolist() == [2, 2, 0] * 2


def test_periodic_groups_take_turns(make_experiment: MakeExperiment) -> None:
    """For ``period`` rounds all workers come from one group, i mod groups; then from the next."""
    experiment = make_experiment(
        workers=10,
        collect=2,
        arrivals={"kind": "periodic", "groups": 3, "period": 4, "never_return": [3]},
    )

    buffers = list(_buffers(experiment, 1200))

    for version, buffer in enumerate(buffers):
        assert set((buffer.worker % 3).tolist()) == {version // 4 % 3}
    # group 0 is {0, 6, 9}, group 1 is {1, 4, 7}, group 2 is {2, 5, 8}: 2 of 3 in 400 rounds
    expected = np.full(10, 2 / 3)
    expected[3] = 0
    _assert_frequencies(_counts(iter(buffers), 10), expected, draws=400)


def test_uniform_delays_are_uniform_and_bounded_by_the_version(
    make_experiment: MakeExperiment,
) -> None:
    """Delays are equally frequent in 0..max_delay, and no worker pulls before version 0."""
    experiment = make_experiment(
        workers=20, collect=10, arrivals={"kind": "uniform", "max_delay": 4}
    )

    buffers = list(_buffers(experiment, 1000))

    assert all(buffer.pulled.min() >= 0 for buffer in buffers)
    delays = np.concatenate([v - b.pulled for v, b in enumerate(buffers) if v >= 4])
    _assert_frequencies(np.bincount(delays), np.full(5, 1 / 5), draws=9960)


def test_constant_delays_are_constant(make_experiment: MakeExperiment) -> None:
    """Version t is made of returns of version t - d, once there is such a version."""
    experiment = make_experiment(
        workers=4, collect=2, arrivals={"kind": "uniform", "max_delay": 3, "delay": "constant"}
    )

    pulled = [buffer.pulled.tolist() for buffer in _buffers(experiment, 6)]

    assert pulled == [[0, 0], [0, 0], [0, 0], [0, 0], [1, 1], [2, 2]]


def test_versions_are_released_when_too_old_to_be_pulled(make_experiment: MakeExperiment) -> None:
    """With max_delay = 2, the buffer of version t is the last that may pull version t - 2."""
    experiment = make_experiment(workers=4, collect=2, arrivals={"kind": "uniform", "max_delay": 2})

    released = [buffer.released for buffer in _buffers(experiment, 5)]

    assert released == [(), (), (0,), (1,), (2,)]


def test_rounds_last_round_s_on_the_virtual_clock(make_experiment: MakeExperiment) -> None:
    """Returns of version t come at (t + 1) round_s; a version is pulled when it came to be."""
    experiment = make_experiment(
        workers=4,
        collect=2,
        arrivals={"kind": "uniform", "round_s": 0.25, "max_delay": 2, "delay": "constant"},
    )

    last = list(_buffers(experiment, 10))[-1]

    assert last.returned_at_s.tolist() == [2.5, 2.5]
    assert last.pulled_at_s.tolist() == [1.75, 1.75]


@pytest.mark.parametrize("kind", ["uniform", "weighted", "schedule", "periodic"])
def test_a_round_costs_the_same_with_a_thousand_times_as_many_workers(kind: str) -> None:
    """100 or 100,000 registered workers: a round takes about the same time."""

    def fastest_round_s(workers: int) -> float:
        arrivals = {"kind": kind, "max_delay": 5, "never_return": [7, 9]}
        if kind == "weighted":
            arrivals["weights"] = [1.0 + i % 3 for i in range(workers)]
        experiment = FederatedExperiment.model_validate(
            {
                "workers": workers,
                "data": {"name": "digits", "partition": "iid"},
                "algorithm": {"name": "afa_cd", "collect": 20},
                "arrivals": arrivals,
            }
        )
        process = build(experiment)
        durations = []
        for version in range(200):
            began = time.thread_time()
            process.next_buffer(version)
            durations.append(time.thread_time() - began)
        return min(durations)

    few, many = fastest_round_s(100), fastest_round_s(100_000)

    # The fastest of 200 rounds, in CPU time, is robust against other load. Measured ratios: 1.0 to
    # 1.1; O(M) work at this size would be a factor of 10 and more.
    assert many < 3 * few
