"""The headline: who is biased under which arrivals (problems A and B; C is P6)."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from configs.federated import FederatedExperiment
from tasks.federated.simulation import assemble


def tail(rounds: int, burn_in: int, **settings: object) -> NDArray[np.float64]:
    """Return x_t for t in burn_in .. rounds of a scalar quadratic experiment."""
    raw = {"dtype": "float64", "local_steps": {"kind": "constant", "steps": 1}, **settings}
    simulator = assemble(FederatedExperiment.model_validate(raw)).engine
    values = []
    for _ in range(rounds):
        simulator.step()
        values.append(simulator.state.model[0].clone())
    return torch.stack(values).numpy()[burn_in:]


def standard_error(values: NDArray[np.float64], batch: int) -> float:
    """Standard error of the mean by batch means; a batch is many relaxation times long."""
    means = values[: len(values) // batch * batch].reshape(-1, batch).mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(len(means)))


def two_workers(name: str, step: float, arrivals: object, start: float) -> dict[str, object]:
    """Problem A: h = 1, c = (0, 100), K = 1, eta_L = 0.1; a = eta * eta_L."""
    return {
        "workers": 2,
        "model": {"name": "quadratic", "centres": [0.0, 100.0], "start": start},
        "algorithm": {"name": name, "collect": 1, "server_lr": step / 0.1},
        "worker": {"optimizer": "sgd", "lr": 0.1},
        "arrivals": arrivals,
    }


RANDOM_9_TO_1 = {"kind": "weighted", "weights": [0.9, 0.1]}
LISTED_9_TO_1 = {"kind": "schedule", "order": [0] * 9 + [1]}


@pytest.mark.parametrize("step", [pytest.param(0.1, marks=pytest.mark.slow), 0.02])
def test_a_cd_is_biased_whatever_the_step(step: float) -> None:
    """AFA-CD's mean is 10, not 50; a smaller step shrinks only its spread."""
    values = tail(5_500, 500, **two_workers("afa_cd", step, RANDOM_9_TO_1, start=10.0))

    error = standard_error(values, 500)
    spread = math.sqrt(step / (2 - step) * 900)
    assert abs(values.mean() - 10) < 3 * error
    assert error < 0.5
    # For a = 0.02 the 5,000 rounds are about 50 independent values: 10 % of standard deviation.
    assert values.std() == pytest.approx(spread, rel=0.25)
    assert (values.mean() - 50) ** 2 == pytest.approx(1600, rel=0.05)


@pytest.mark.parametrize("arrivals", [RANDOM_9_TO_1, LISTED_9_TO_1], ids=["random", "listed"])
def test_a_cs_is_not_biased(arrivals: object) -> None:
    """AFA-CS comes to rest at the optimum, 50, without spread."""
    values = tail(1_200, 1_000, **two_workers("afa_cs", 0.02, arrivals, start=0.0))

    assert np.allclose(values, 50.0, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_rescaling_leaves_a_bias_that_shrinks_with_the_step() -> None:
    """Rescaled ASGD's mean nears the optimum as a falls, where AFA-CD's bias stays 40."""
    biases = {
        step: tail(
            3_000, 200, **two_workers("rescaled_asgd", step, RANDOM_9_TO_1, start=50.0)
        ).mean()
        - 50
        for step in (0.08, 0.04, 0.02)
    }

    # The weight of a return and the model that it finds are correlated to first order in a.
    assert abs(biases[0.02]) < 3
    assert biases[0.08] / biases[0.04] == pytest.approx(2, rel=0.3)
    assert biases[0.04] / biases[0.02] == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize(("step", "low", "high"), [(0.1, 5.95, 15.35), (0.001, 9.955, 10.045)])
def test_a_listed_nine_to_one(step: float, low: float, high: float) -> None:
    """The deterministic 9 : 1 schedule: AFA-CD's time average is exactly 10, in a known range.

    It gets there by itself with the large step; with the small one it begins there, at the fixed
    point x = (1 - a)^10 x + 100 a of ten rounds.
    """
    start = 10.0 if step > 0.01 else 100 * step / (1 - (1 - step) ** 10)
    settings = two_workers("afa_cd", step, LISTED_9_TO_1, start=start)
    values = tail(1_080, 80, **settings)

    assert values.mean() == pytest.approx(10.0, abs=1e-3)
    assert (values.min(), values.max()) == pytest.approx((low, high), abs=5e-3)


def event_driven(
    name: str, collect: int, step: float, steps: object, start: float
) -> dict[str, object]:
    """Problem B: 8 slow workers at 0, 2 that are ten times as fast at 10."""
    return {
        "workers": 10,
        "model": {"name": "quadratic", "centres": [0.0] * 8 + [10.0] * 2, "start": start},
        "algorithm": {"name": name, "collect": collect, "server_lr": step / 0.01},
        "worker": {"optimizer": "sgd", "lr": 0.01},
        "local_steps": steps,
        "arrivals": "event_driven",
        "service": {"law": "exponential", "mean_s": [1.0] * 8 + [0.1] * 2},
    }


FIVE = {"kind": "constant", "steps": 5}
UP_TO_TEN = {"kind": "uniform", "low": 1, "high": 10}


@pytest.mark.parametrize(
    ("collect", "step", "steps", "simulated"),
    [
        (1, 0.05, FIVE, 0.784),
        pytest.param(1, 0.005, FIVE, 0.212, marks=pytest.mark.slow),
        pytest.param(3, 0.05, FIVE, 0.444, marks=pytest.mark.slow),
        pytest.param(3, 0.005, FIVE, 0.130, marks=pytest.mark.slow),
        pytest.param(3, 0.005, UP_TO_TEN, 0.132, marks=pytest.mark.slow),
    ],
)
def test_b_cd_goes_to_the_frequency_weighted_mean(
    collect: int, step: float, steps: object, simulated: float
) -> None:
    """AFA-CD's mean is 20 * 10 / 28 = 7.142857, for any step, buffer and law of K."""
    values = tail(
        4_000 if step > 0.01 else 8_000,
        500,
        **event_driven("afa_cd", collect, step, steps, start=7.0),
    )

    error = standard_error(values, 750)
    assert abs(values.mean() - 200 / 28) < 3 * error
    assert error < 0.1
    # Values 1 / a rounds apart count as independent for the spread: N = a * rounds of them give it
    # to within 1 / sqrt(2 N). The simulated figures are one run of 15,000 rounds each.
    num_independent = step * len(values), step * 15_000
    uncertainty = math.sqrt(sum(1 / (2 * n) for n in num_independent))
    assert uncertainty < 0.15  # and 0.05 for a = 0.05; a = 0.05 and 0.005 differ by a factor of 3.5
    assert values.std() == pytest.approx(simulated, rel=3 * uncertainty)


@pytest.mark.parametrize(
    ("collect", "step"),
    [
        pytest.param(1, 0.05, marks=pytest.mark.slow),
        pytest.param(1, 0.005, marks=pytest.mark.slow),
        pytest.param(3, 0.05, marks=pytest.mark.slow),
        (3, 0.005),
    ],
)
def test_b_cs_goes_to_the_optimum(collect: int, step: float) -> None:
    """AFA-CS comes to rest at 2, however much faster two workers are."""
    values = tail(2_500, 2_000, **event_driven("afa_cs", collect, step, FIVE, start=0.0))

    assert np.allclose(values, 2.0, rtol=0, atol=1e-3)


def test_b_with_random_steps_cs_keeps_a_residual_of_the_order_of_drift() -> None:
    """K ~ U{1..10}: AFA-CS stays within 0.01 of the optimum; what remains is s(K)'s variation."""
    values = tail(3_000, 1_600, **event_driven("afa_cs", 3, 0.005, UP_TO_TEN, start=1.0))

    assert abs(values.mean() - 2.0) < 1e-2
    assert 0 < values.std() < 1e-2


@pytest.mark.parametrize("collect", [1, 3])
def test_b_mean_delay_is_m_minus_one_over_m(collect: int) -> None:
    """With every worker always busy, the mean delay is (M - 1) / m."""
    raw = event_driven("afa_cd", collect, 0.005, FIVE, start=0.0)
    simulator = assemble(FederatedExperiment.model_validate({"dtype": "float64", **raw})).engine
    for _ in range(3_000):
        simulator.step()

    mean = simulator.totals.delay_sum / simulator.totals.num_returns
    assert mean == pytest.approx(9 / collect, rel=0.02)
