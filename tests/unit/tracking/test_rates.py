"""The fitted rate: right for power laws, honest about its error, and never a crash."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.tracking.rates import (
    fit_rate,
    fit_rate_over_seeds,
    mean_square_gradient,
    speedups,
)

Floats = NDArray[np.float64]


def _power_law(exponent: float, num_rounds: int) -> Floats:
    """g_t whose running mean is exactly T^exponent: the difference of t * t^exponent."""
    rounds = np.arange(num_rounds, dtype=float)
    return (rounds + 1) ** (1 + exponent) - rounds ** (1 + exponent)


def _noise(num: int, *, correlation: float, sigma: float, rng: np.random.Generator) -> Floats:
    """Log-normal noise of mean 1 whose logarithm is AR(1), written as the slow recursion."""
    state = rng.normal()
    logs = np.empty(num)
    for step in range(num):
        logs[step] = state
        state = correlation * state + np.sqrt(1 - correlation**2) * rng.normal()
    return np.exp(sigma * logs - sigma**2 / 2)


@pytest.mark.parametrize("exponent", [-1.0 / 2, -1.0 / 3, -0.9, 0.1])
def test_exact_power_laws_are_found(exponent: float) -> None:
    """Without noise, and measured every round, the exponent is that of the running mean."""
    squares = _power_law(exponent, 500)

    fit = fit_rate(np.arange(500), squares, seed=0)

    assert fit is not None
    # G(T) is T^b exactly; the interpolation to every round is the identity here.
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.low <= fit.exponent <= fit.high
    assert fit.high - fit.low < 0.05
    assert fit.num_points == 500


def test_sparse_measurements_give_nearly_the_same_exponent() -> None:
    """Measured every 10 rounds from round 0 on, the steep beginning is filled in well enough."""
    rounds = np.arange(0, 501, 10)

    fit = fit_rate(rounds, _power_law(-0.5, 501)[rounds], seed=0)

    assert fit is not None
    # Linear filling-in would be off by 0.1 here (g_0 counts ten times what it should).
    assert fit.exponent == pytest.approx(-0.5, abs=0.03)


@pytest.mark.parametrize(
    ("num", "every", "correlation"),
    [(31, 10, 0.0), (31, 10, 0.8), (300, 1, 0.0), (300, 1, 0.5), (300, 1, 0.9)],
)
def test_intervals_cover_the_true_exponent(num: int, every: int, correlation: float) -> None:
    """An interval of nominal 95 % covers the true exponent at least 85 % of the time."""
    rounds = np.arange(num) * every
    truth = _power_law(-0.5, int(rounds[-1]) + 1)[rounds]
    covered, widths = [], []
    for replica in range(200):
        rng = np.random.default_rng([replica, num])
        squares = truth * _noise(num, correlation=correlation, sigma=0.7, rng=rng)

        fit = fit_rate(rounds, squares, seed=replica)

        assert fit is not None
        covered.append(fit.low <= -0.5 <= fit.high)
        widths.append(fit.high - fit.low)
    # 200 replicas of a coverage of 93 % fall below 85 % once in 10^5 times.
    assert np.mean(covered) >= 0.85
    # An interval that always covers because it is boundless would be of no use.
    assert np.median(widths) < 2.5


def test_naive_least_squares_would_not_cover() -> None:
    """The residuals of the running mean's own fit claim an error many times too small."""
    num, covered = 300, []
    for replica in range(100):
        rng = np.random.default_rng(replica)
        squares = _power_law(-0.5, num) * _noise(num, correlation=0.5, sigma=0.7, rng=rng)
        ends = np.arange(30, num + 1)
        logs = np.log(np.cumsum(squares)[29:] / ends)
        x = np.log(ends) - np.log(ends).mean()
        slope = logs @ x / (x @ x)
        residuals = logs - logs.mean() - slope * x
        error = np.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x))
        covered.append(abs(slope + 0.5) < 1.96 * error)

    # The reason for the bootstrap: this is the interval that an ordinary fit would report.
    assert np.mean(covered) < 0.5


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_intervals_over_seeds_cover_the_true_exponent(num_seeds: int) -> None:
    """Resampled seeds cover too, also when there are two, and whatever the autocorrelation."""
    rounds = np.arange(0, 310, 10)
    truth = _power_law(-0.5, 301)[rounds]
    covered = []
    for replica in range(150):
        rng = np.random.default_rng([replica, num_seeds])
        runs = [
            (rounds, truth * _noise(len(rounds), correlation=0.8, sigma=0.5, rng=rng))
            for _ in range(num_seeds)
        ]

        fit = fit_rate_over_seeds(runs, seed=replica)

        assert fit is not None
        covered.append(fit.low <= -0.5 <= fit.high)
    assert np.mean(covered) >= 0.85


def test_one_seed_is_fitted_as_a_single_run() -> None:
    """Of one run there is nothing to resample but its rounds."""
    squares = _power_law(-0.5, 50) * _noise(
        50, correlation=0.5, sigma=0.5, rng=np.random.default_rng(1)
    )

    fit = fit_rate_over_seeds([(np.arange(50), squares)], seed=3)

    assert fit == fit_rate(np.arange(50), squares, seed=3)


@pytest.mark.parametrize(
    "squares",
    [
        [],
        [1.0, 0.5, 0.3, 0.2],
        [1.0, 0.5, 0.0, 0.2, 0.1],
        [0.0] * 10,
        [2.0] * 10,
        [float("nan")] * 10,
        [1.0, 0.5, float("inf"), float("nan"), 0.2, 0.1],
    ],
)
def test_degenerate_series_have_no_rate(squares: list[float]) -> None:
    """Too few finite values, a zero, or no change at all: no fit, and no crash."""
    rounds = list(range(len(squares)))

    assert fit_rate(rounds, squares, seed=0) is None
    assert fit_rate_over_seeds([(rounds, squares)] * 2, seed=0) is None
    assert mean_square_gradient(rounds, squares, until=100) is None


def test_exponentially_solved_problems_have_the_exponent_minus_one() -> None:
    """When the sum of squared norms is finite, its mean falls like 1/T."""
    squares = 0.8 ** np.arange(0, 400.0)

    fit = fit_rate(np.arange(400), squares, seed=0)

    assert fit is not None
    assert fit.exponent == pytest.approx(-1.0, abs=1e-3)
    assert np.isfinite(fit.low)
    assert np.isfinite(fit.high)


def test_the_fit_is_reproducible() -> None:
    """The same seed gives the same interval, to the last bit."""
    squares = _power_law(-0.5, 60) * _noise(
        60, correlation=0.3, sigma=0.5, rng=np.random.default_rng(2)
    )

    assert fit_rate(np.arange(60), squares, seed=5) == fit_rate(np.arange(60), squares, seed=5)


def test_long_runs_are_thinned_without_changing_the_exponent() -> None:
    """20,000 measurements cost no more than 512, and give the same running means."""
    squares = _power_law(-0.5, 20_000)

    fit = fit_rate(np.arange(20_000), squares, seed=0)

    assert fit is not None
    # Only the log-spaced T, which must be ends of merged intervals, move a little.
    assert fit.exponent == pytest.approx(-0.5, abs=1e-6)


def test_mean_square_gradient_is_the_mean_over_rounds() -> None:
    """G(T) is the plain mean of the first T values when every round is measured."""
    squares = np.random.default_rng(0).uniform(0.5, 2.0, size=40)

    value = mean_square_gradient(np.arange(40), squares, until=25)

    assert value == pytest.approx(squares[:25].mean(), rel=1e-12)


def test_speedups_of_the_theorem_are_ideal() -> None:
    """If G is 1/sqrt(m K T) the measured speed-up is m K relative to the smallest."""
    measured = {(m, k): [1 / np.sqrt(m * k * 400)] for m in (2.0, 4.0, 8.0) for k in (1.0, 5.0)}

    result = speedups(measured)

    assert [one.ideal for one in result] == [1, 2, 4, 5, 10, 20]
    assert [one.measured for one in result] == pytest.approx([1, 2, 4, 5, 10, 20])


def test_speedups_show_the_spread_over_seeds() -> None:
    """Low and high are those of the worst and the best seed against the mean of the base."""
    result = speedups({(1.0, 1.0): [1.0, 3.0], (4.0, 1.0): [0.5, 2.0]})

    # Base mean 2; configuration mean 1.25, worst 2, best 0.5.
    assert result[1].measured == pytest.approx((2 / 1.25) ** 2)
    assert (result[1].low, result[1].high) == pytest.approx((1.0, 16.0))
    assert (result[0].low, result[0].high) == pytest.approx(((2 / 3) ** 2, 4.0))


def test_no_configurations_have_no_speedups() -> None:
    """An empty study is no error."""
    assert speedups({}) == []
