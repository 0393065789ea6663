"""Laws of local steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.federated import FederatedExperiment
from tasks.federated import local_steps
from tasks.federated.local_steps import StepLaw, steps_by_speed
from tasks.federated.service import ServiceTimes

_WORKERS = 4


def _law(config: dict[str, object], service: dict[str, object] | None = None) -> StepLaw:
    experiment = FederatedExperiment.model_validate(
        {
            "workers": _WORKERS,
            "algorithm": {"name": "afa_cd", "collect": 1},
            "model": {"name": "quadratic", "centres": [0.0] * _WORKERS},
            "local_steps": config,
            "service": service or {},
        }
    )
    times = ServiceTimes(experiment.service, workers=_WORKERS, seed=experiment.seed)
    return local_steps.build(experiment, times)


def test_constant_steps_are_the_same_for_all() -> None:
    """Every return has K steps."""
    law = _law({"kind": "constant", "steps": 7})

    assert law(np.array([0, 3, 3]), np.array([0, 1, 2])).tolist() == [7, 7, 7]


def test_per_worker_steps_belong_to_the_worker() -> None:
    """Worker i's returns have the i-th number of steps."""
    law = _law({"kind": "per_worker", "steps": [1, 5, 2, 9]})

    assert law(np.array([3, 0, 3]), np.array([0, 1, 2])).tolist() == [9, 1, 9]


def test_uniform_steps_are_uniform_over_both_ends() -> None:
    """Each number from low to high is equally frequent."""
    law = _law({"kind": "uniform", "low": 2, "high": 5})

    steps = law(np.zeros(4000, int), np.arange(4000))

    # Five standard deviations of a count of 4000 draws with probability 1/4.
    counts = np.bincount(steps, minlength=6)
    assert counts[:2].tolist() == [0, 0]
    assert (abs(counts[2:] - 1000) < 5 * np.sqrt(4000 * 3 / 16)).all()


def test_uniform_steps_depend_on_the_return_only() -> None:
    """A return has the same number of steps, asked alone or with others; workers differ."""
    law = _law({"kind": "uniform", "low": 1, "high": 100_000})
    worker, sequence = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)

    together = law(worker, sequence)

    assert law(worker[7:8], sequence[7:8]).tolist() == together[7:8].tolist()
    assert law(worker[::-1], sequence[::-1]).tolist() == together[::-1].tolist()
    assert len(set(together.tolist())) == 20


def test_speed_steps_are_in_proportion_to_speed() -> None:
    """A worker that is four times as fast does four times the steps; the mean is as configured."""
    law = _law(
        {"kind": "speed", "mean": 7.5},
        {"law": "exponential", "mean_s": [1.0, 0.5, 0.25, 0.125]},
    )

    steps = law(np.arange(4), np.zeros(4, int))

    assert steps.tolist() == [2, 4, 8, 16]


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    st.floats(0.1, 50),
)
def test_speed_steps_keep_the_mean(means_s: list[float], mean_steps: float) -> None:
    """At least one step each, the mean within half a step over all, and no slower one has more."""
    steps = steps_by_speed(np.array(means_s), mean_steps)

    assert steps.min() >= 1
    assert steps.sum() == max(round(mean_steps * len(means_s)), len(means_s))
    fastest_first = np.argsort(means_s)
    # Rounding may give one of two equally fast workers one step more.
    assert (np.diff(steps[fastest_first]) <= 1).all()


def test_a_time_budget_holds_the_steps_that_fit() -> None:
    """With constant steps of 0.5 s to 4 s, a budget of 2 s holds 4, 2, 1 and (at least) 1."""
    law = _law(
        {"kind": "time_budget", "budget_s": 2.0},
        {"law": "constant", "per": "step", "mean_s": [0.5, 1.0, 2.0, 4.0]},
    )

    assert law(np.arange(4), np.zeros(4, int)).tolist() == [4, 2, 1, 1]


@pytest.mark.parametrize("max_steps", [3, 1000])
def test_a_time_budget_counts_renewals(max_steps: int) -> None:
    """Exponential steps within a budget are Poisson in number, cut at one and at max_steps."""
    law = _law(
        {"kind": "time_budget", "budget_s": 4.0, "max_steps": max_steps},
        {"law": "exponential", "per": "step", "mean_s": 1.0},
    )

    steps = law(np.zeros(3000, int), np.arange(3000))

    poisson = np.random.default_rng(0).poisson(4.0, 1_000_000)
    expected = np.clip(poisson, 1, max_steps)
    # Five standard errors of 3000 draws; those of the million are negligible beside them.
    assert abs(steps.mean() - expected.mean()) < 5 * expected.std() / np.sqrt(3000)
