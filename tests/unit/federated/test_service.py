"""Service times: their means, their laws, and that they depend on nothing but the return."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.arrivals import Service
from tasks.federated.service import ServiceTimes

Ints = NDArray[np.int64]

_LAWS = ("constant", "exponential", "lognormal")
_DRAWS = 3000


def _returns(num_returns: int, worker: int = 0) -> tuple[Ints, Ints]:
    return np.full(num_returns, worker), np.arange(num_returns)


def _durations_s(service: Service, steps: int) -> NDArray[np.float64]:
    times = ServiceTimes(service, workers=1, seed=3)
    return times.durations_s(*_returns(_DRAWS), np.full(_DRAWS, steps))


@pytest.mark.parametrize("law", _LAWS)
@pytest.mark.parametrize(("per", "num_draws"), [("return", 1), ("step", 6)])
def test_durations_have_the_configured_mean(law: str, per: str, num_draws: int) -> None:
    """The mean is mean_s a return, or K mean_s for K steps, whatever the law."""
    service = Service.model_validate({"law": law, "per": per, "mean_s": 2.5, "sigma": 0.8})

    durations_s = _durations_s(service, steps=6)

    # Standard deviation of a draw of mean one: 0, 1, and sqrt(exp(0.8^2) - 1) = 0.947. Five of the
    # mean's are 5 * 2.5 / sqrt(3000 / num_draws) at most.
    spread = {"constant": 0.0, "exponential": 1.0, "lognormal": 0.947}[law]
    tolerance = 5 * 2.5 * spread * np.sqrt(num_draws / _DRAWS)
    assert durations_s.mean() == pytest.approx(2.5 * num_draws, abs=tolerance + 1e-9)


def _exponential(x: float) -> float:
    return 1 - math.exp(-x / 2)


def _gamma_6(x: float) -> float:
    """Six steps of mean 2 are done by x if a Poisson count of mean x/2 is six or more."""
    return 1 - sum(math.exp(-x / 2) * (x / 2) ** k / math.factorial(k) for k in range(6))


def _lognormal(x: float) -> float:
    """Mean 2 with sigma 0.8: exp(mu + 0.8^2 / 2) = 2."""
    mu = math.log(2) - 0.8**2 / 2
    return (1 + math.erf((math.log(x) - mu) / (0.8 * math.sqrt(2)))) / 2


@pytest.mark.parametrize(
    ("service", "distribution"),
    [
        (Service(law="exponential", mean_s=2.0), _exponential),
        (Service(law="exponential", mean_s=2.0, per="step"), _gamma_6),
        (Service(law="lognormal", mean_s=2.0, sigma=0.8), _lognormal),
    ],
)
def test_durations_follow_their_law(
    service: Service, distribution: Callable[[float], float]
) -> None:
    """The measured distribution is the law's; K exponential steps make a Gamma(K) return."""
    durations_s = np.sort(_durations_s(service, steps=6))

    expected = np.array([distribution(x) for x in durations_s.tolist()])
    measured = (np.arange(_DRAWS) + 0.5) / _DRAWS
    # Kolmogorov: a correct law is off by more than 2.23 / sqrt(n) with a probability of 1e-4.
    assert abs(measured - expected).max() < 2.23 / np.sqrt(_DRAWS)


def test_a_duration_depends_on_its_return_only() -> None:
    """Asked alone or with others, in any order, a return takes the same time."""
    times = ServiceTimes(Service(per="step", spread=0.5), workers=50, seed=9)
    worker, sequence = np.arange(50), np.arange(50) * 7
    steps = 1 + np.arange(50) % 4

    together = times.durations_s(worker, sequence, steps)
    order = np.random.default_rng(0).permutation(50)

    assert times.durations_s(worker[order], sequence[order], steps[order]).tolist() == (
        together[order].tolist()
    )
    assert times.durations_s(worker[8:9], sequence[8:9], steps[8:9])[0] == together[8]
    assert len(set(together.tolist())) == 50


def test_speeds_are_drawn_once_around_the_given_mean() -> None:
    """With ``spread``, the logarithms of the workers' factors have that standard deviation."""
    service = Service(law="constant", mean_s=3.0, spread=0.7)

    means_s = ServiceTimes(service, workers=10_000, seed=1).means_s

    # Standard error of a mean of 10,000 is 0.007, of a standard deviation 0.005; five of each.
    factors = np.log(means_s / 3.0)
    assert abs(factors.mean()) < 0.035
    assert abs(factors.std() - 0.7) < 0.025
    assert ServiceTimes(service, workers=10_000, seed=1).means_s.tolist() == means_s.tolist()


def test_each_worker_may_have_its_own_mean() -> None:
    """A list of means is taken worker by worker."""
    times = ServiceTimes(Service(law="constant", mean_s=(1.0, 2.0, 4.0)), workers=3, seed=0)

    durations_s = times.durations_s(np.array([2, 0, 1]), np.zeros(3, int), np.full(3, 5))

    assert durations_s.tolist() == [4.0, 1.0, 2.0]


@pytest.mark.parametrize("law", ["exponential", "lognormal"])
@pytest.mark.parametrize("budget_s", [0.01, 1.0, 3.0, 40.0])
def test_the_steps_within_a_budget_are_those_that_fit(law: str, budget_s: float) -> None:
    """One step more than counted would not fit; the first is done even if it does not."""
    service = Service.model_validate({"law": law, "per": "step", "mean_s": 0.5, "sigma": 3.0})
    times = ServiceTimes(service, workers=1, seed=4)
    worker, sequence = _returns(200)

    steps = times.steps_within(worker, sequence, budget_s, max_steps=500)

    took_s = times.durations_s(worker, sequence, steps)
    one_more_s = times.durations_s(worker, sequence, steps + 1)
    assert steps.min() >= 1
    assert steps.max() <= 500
    # 1e-12: steps are counted in units of the mean, which rounds differently than seconds do
    assert ((took_s <= budget_s * (1 + 1e-12)) | (steps == 1)).all()
    assert ((one_more_s > budget_s * (1 - 1e-12)) | (steps == 500)).all()


def test_constant_steps_fill_a_budget_exactly() -> None:
    """0.3 s hold three steps of 0.1 s, although 0.3 / 0.1 is below 3 in floating point."""
    service = Service(law="constant", per="step", mean_s=(0.1, 0.2, 1.0, 1e-9))
    times = ServiceTimes(service, workers=4, seed=0)

    steps = times.steps_within(np.arange(4), np.zeros(4, int), 0.3, max_steps=1000)

    assert steps.tolist() == [3, 1, 1, 1000]
