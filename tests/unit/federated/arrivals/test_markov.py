"""Markov availability: how long workers stay on and off, and waiting for enough of them."""

from collections.abc import Callable

import numpy as np
import pytest

from configs.federated import FederatedExperiment
from tasks.federated.arrivals import build
from tasks.runtime.errors import JobError

MakeExperiment = Callable[..., FederatedExperiment]


def test_gaps_between_returns_follow_the_chain(make_experiment: MakeExperiment) -> None:
    """A lone worker that turns on and off with 0.2 returns after one round in 0.8 of the cases."""
    experiment = make_experiment(
        workers=1,
        collect=1,
        arrivals={"kind": "markov", "turn_on": 0.2, "turn_off": 0.2, "round_s": 0.5},
    )
    process = build(experiment)

    returned_at_s = np.array([process.next_buffer(v).returned_at_s[0] for v in range(4000)])

    gaps = np.diff(returned_at_s) / 0.5
    # Five standard deviations of 4000 draws: sqrt(0.8 * 0.2 / 4000) = 0.0063 for the share. A gap
    # is 1, or (in 0.2 of the cases) 1 + a geometric time of mean 5: mean 2 = 1 / P(on), variance 8.
    assert abs((gaps == 1).mean() - 0.8) < 5 * 0.0063
    assert abs(gaps.mean() - 2.0) < 5 * np.sqrt(8 / 4000)


def test_each_worker_is_on_for_its_stationary_share(make_experiment: MakeExperiment) -> None:
    """All workers return equally often in the long run, and those who never return never."""
    experiment = make_experiment(
        workers=9,
        collect=2,
        arrivals={"kind": "markov", "turn_on": 0.3, "turn_off": 0.3, "never_return": [8]},
    )
    process = build(experiment)

    counts = np.bincount(
        np.concatenate([process.next_buffer(v).worker for v in range(4000)]), minlength=9
    )

    # Rounds are correlated with 1 - 0.3 - 0.3 = 0.4 a round, which makes the variance of a count
    # at most (1 + 0.4) / (1 - 0.4) = 2.33 times the binomial one, 4000 * 1/4 * 3/4 = 750.
    assert counts[8] == 0
    assert (abs(counts[:8] - 1000) < 5 * np.sqrt(2.33 * 750)).all()


def test_workers_stay_on(make_experiment: MakeExperiment) -> None:
    """With turn_off = 0, who is on stays on: all are on at last, and then no round is lost."""
    experiment = make_experiment(
        workers=6, collect=6, arrivals={"kind": "markov", "turn_on": 0.5, "turn_off": 0.0}
    )
    process = build(experiment)

    times_s = [process.next_buffer(version).returned_at_s[0] for version in range(20)]

    assert np.diff(times_s).tolist() == [1.0] * 19


def test_delays_count_versions_while_the_clock_counts_rounds(
    make_experiment: MakeExperiment,
) -> None:
    """A version is pulled when it came to be, also if rounds passed in vain since."""
    experiment = make_experiment(
        workers=3,
        collect=2,
        arrivals={
            "kind": "markov",
            "turn_on": 0.3,
            "turn_off": 0.5,
            "max_delay": 3,
            "delay": "constant",
        },
    )
    process = build(experiment)
    made_at_s = [0.0]

    for version in range(60):
        buffer = process.next_buffer(version)

        pulled = max(version - 3, 0)
        assert buffer.pulled.tolist() == [pulled] * 2
        assert buffer.pulled_at_s.tolist() == [made_at_s[pulled]] * 2
        made_at_s.append(float(buffer.returned_at_s[0]))
    assert made_at_s[-1] > 60  # rounds did pass in vain


def test_waiting_for_ever_is_an_error(make_experiment: MakeExperiment) -> None:
    """Where enough workers are practically never on, the run ends and says what to change."""
    experiment = make_experiment(
        workers=40, collect=40, arrivals={"kind": "markov", "turn_on": 0.1, "turn_off": 0.9}
    )

    with pytest.raises(JobError, match=r"fewer than collect=40 workers were on .* raise .*turn_on"):
        build(experiment).next_buffer(0)
