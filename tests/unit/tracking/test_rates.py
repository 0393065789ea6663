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


def _power_law(exponent: float, rounds: NDArray[np.int64]) -> Floats:
    """t^exponent, and 1 at round 0."""
    return np.maximum(rounds, 1).astype(float) ** exponent


def _noise(num: int, *, correlation: float, sigma: float, rng: np.random.Generator) -> Floats:
    """Log-normal noise of mean 1 whose logarithm is AR(1), written as the slow recursion."""
    state = rng.normal()
    logs = np.empty(num)
    for step in range(num):
        logs[step] = state
        state = correlation * state + np.sqrt(1 - correlation**2) * rng.normal()
    return np.exp(sigma * logs - sigma**2 / 2)


def _at_a_floor(start: float, step: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Measurements of SGD on |x|^2 / 2 in 650 dimensions, every 10 of 1,000 rounds.

    With noise of size one the floor is step / (2 - step); x is at it as soon as
    (1 - step)^(2 t) start^2 is far below.
    """
    dimensions = 650
    x = np.full(dimensions, start / dimensions**0.5)
    squares = []
    for now in range(1001):
        if now % 10 == 0:
            squares.append(float(x @ x))
        x = (1 - step) * x - step / dimensions**0.5 * rng.standard_normal(dimensions)
    return np.arange(0.0, 1001.0, 10), np.array(squares)


@pytest.mark.parametrize("exponent", [-1.0 / 2, -1.0 / 3, -2.0, 0.1])
@pytest.mark.parametrize("every", [1, 7, 10])
def test_exact_power_laws_are_found(exponent: float, every: int) -> None:
    """Without noise the exponent is exact, however sparse the measurements."""
    rounds = np.arange(0, 501, every)

    fit = fit_rate(rounds, _power_law(exponent, rounds))

    assert fit is not None
    # Means of log t^b are b times the means of log t.
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.low <= fit.exponent <= fit.high
    assert fit.high - fit.low < 1e-6
    assert fit.num_points == np.sum(rounds >= rounds[-1] / 10)


@pytest.mark.parametrize(
    ("num", "every", "correlation"),
    [(31, 10, 0.0), (31, 10, 0.6), (100, 10, 0.8), (300, 1, 0.0), (300, 1, 0.5), (300, 1, 0.9)],
)
def test_intervals_cover_the_true_exponent(num: int, every: int, correlation: float) -> None:
    """An interval of nominal 95 % covers the true exponent at least 87 % of the time."""
    rounds = np.arange(num) * every
    truth = _power_law(-0.5, rounds)
    covered, widths = [], []
    for replica in range(200):
        rng = np.random.default_rng([replica, num])
        squares = truth * _noise(num, correlation=correlation, sigma=0.5, rng=rng)

        fit = fit_rate(rounds, squares)

        assert fit is not None
        covered.append(fit.low <= -0.5 <= fit.high)
        widths.append(fit.high - fit.low)
    # 200 replicas of a coverage of 94 % fall below 87 % once in 10^4 times.
    assert np.mean(covered) >= 0.87
    # An interval that always covers because it is boundless would be of no use.
    assert np.median(widths) < 2.5


def test_the_correlation_of_few_batches_is_corrected_for_its_bias() -> None:
    """Neighbours of 0.9: 96 % of the intervals cover, against 86 % with the plain estimate."""
    rounds = np.arange(0, 1000, 10)
    truth = _power_law(-0.5, rounds)
    covered = []
    for replica in range(200):
        rng = np.random.default_rng([replica, 100])

        fit = fit_rate(rounds, truth * _noise(100, correlation=0.9, sigma=0.5, rng=rng))

        assert fit is not None
        covered.append(fit.low <= -0.5 <= fit.high)
    # Of 200 replicas, 3.6 standard errors below the one, and 2.0 above the other.
    assert np.mean(covered) >= 0.91


@pytest.mark.parametrize("start", [1.0, 3.0])
def test_a_run_at_its_floor_has_the_exponent_zero(start: float) -> None:
    """Wherever it began: a run that descended before the last decade descends no more."""
    covered, exponents = [], []
    for replica in range(60):
        rounds, squares = _at_a_floor(start, 0.05, np.random.default_rng(replica))

        fit = fit_rate(rounds, squares)

        assert fit is not None
        covered.append(fit.low <= 0 <= fit.high)
        exponents.append(fit.exponent)
    # At round 100 the start is below 1.3 % of the floor: exp(-10) * 9 against 0.0256.
    assert np.mean(covered) >= 0.87
    assert np.mean(exponents) == pytest.approx(0.0, abs=0.01)


def test_the_running_mean_would_not_see_the_floor() -> None:
    """The mean over all rounds still falls while the run does not: its slope says -1/2 or less."""
    rounds, squares = _at_a_floor(3.0, 0.05, np.random.default_rng(0))
    means = np.array(
        [mean_square_gradient(rounds, squares, until) or 0.0 for until in (100.0, 1000.0)]
    )

    slope = np.diff(np.log10(means))[0]

    assert slope < -0.5
    fit = fit_rate(rounds, squares)
    assert fit is not None
    assert fit.low > slope


def test_naive_least_squares_would_not_cover() -> None:
    """Residuals taken as independent claim an error several times too small."""
    rounds, covered = np.arange(300), []
    for replica in range(100):
        rng = np.random.default_rng(replica)
        squares = _power_law(-0.5, rounds) * _noise(300, correlation=0.9, sigma=0.7, rng=rng)
        logs, x = np.log(squares[30:]), np.log(rounds[30:])
        x = x - x.mean()
        slope = logs @ x / (x @ x)
        residuals = logs - logs.mean() - slope * x
        error = np.sqrt(residuals @ residuals / (len(x) - 2) / (x @ x))
        covered.append(abs(slope + 0.5) < 1.96 * error)

    # The reason for batches and their correlation: an ordinary fit would report this.
    assert np.mean(covered) < 0.5


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_intervals_over_seeds_cover_the_true_exponent(num_seeds: int) -> None:
    """The spread of the seeds covers too, also of two, and whatever the autocorrelation."""
    rounds = np.arange(0, 310, 10)
    truth = _power_law(-0.5, rounds)
    covered = []
    for replica in range(150):
        rng = np.random.default_rng([replica, num_seeds])
        runs = [
            (rounds, truth * _noise(len(rounds), correlation=0.8, sigma=0.5, rng=rng))
            for _ in range(num_seeds)
        ]

        fit = fit_rate_over_seeds(runs)

        assert fit is not None
        covered.append(fit.low <= -0.5 <= fit.high)
    # Student's interval of normal values is exact: 150 of 95 % fall below 88 % once in 10^3 times.
    assert np.mean(covered) >= 0.88


def test_one_seed_is_fitted_as_a_single_run() -> None:
    """Of one run there is no spread but its own."""
    rounds = np.arange(50)
    noise = _noise(50, correlation=0.5, sigma=0.5, rng=np.random.default_rng(1))
    squares = _power_law(-0.5, rounds) * noise

    fit = fit_rate_over_seeds([(rounds, squares)])

    assert fit == fit_rate(rounds, squares)


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

    assert fit_rate(rounds, squares) is None
    assert fit_rate_over_seeds([(rounds, squares)] * 2) is None
    assert mean_square_gradient(rounds, squares, until=100) is None


def test_a_run_that_was_measured_too_rarely_has_no_rate() -> None:
    """Of fewer than four measurements in the last decade nothing is told."""
    assert fit_rate([0, 1, 2, 3, 4, 100, 200, 300], [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]) is None


def test_linear_convergence_is_steeper_than_any_power() -> None:
    """A run that goes on to halve its gradient has a large exponent, and a finite interval."""
    fit = fit_rate(np.arange(400), 0.8 ** np.arange(0, 400.0))

    assert fit is not None
    assert fit.exponent < -20
    # That it is no power law widens the interval, and leaves no doubt that it descends.
    assert fit.low > -100
    assert fit.high < -10


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


def test_speedups_have_the_interval_of_their_seeds() -> None:
    """By hand: two configurations of two seeds each, so two degrees of freedom, t = 4.303."""
    result = speedups({(1.0, 1.0): [1.0, 1.2], (4.0, 1.0): [0.5, 0.55]})

    log_variance = (np.log(1.2) ** 2 / 2 + np.log(1.1) ** 2 / 2) / 2
    factor = np.exp(2 * 4.3027 * np.sqrt(log_variance * (1 / 2 + 1 / 2)))
    measured = (1.1 / 0.525) ** 2
    assert result[1].measured == pytest.approx(measured)
    assert result[1].low == pytest.approx(measured / factor, rel=1e-4)
    assert result[1].high == pytest.approx(measured * factor, rel=1e-4)
    assert (result[0].low, result[0].measured, result[0].high) == (1.0, 1.0, 1.0)


def test_speedups_of_single_seeds_have_no_interval() -> None:
    """One seed a configuration does not tell chance."""
    result = speedups({(1.0, 1.0): [1.0], (4.0, 1.0): [0.5]})

    assert (result[1].low, result[1].high) == (None, None)


def test_the_interval_of_a_speedup_covers() -> None:
    """With 5 % noise in every G, the base's too, 95 % intervals hold the truth that often."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(500):
        measured = {
            (m, 1.0): list(m**-0.5 * np.exp(0.05 * rng.standard_normal(3))) for m in (1.0, 4.0, 8.0)
        }

        one = speedups(measured)[1]

        assert one.low is not None
        assert one.high is not None
        covered.append(one.low <= 4 <= one.high)
    # 500 of a coverage of 95 % stay within 2.5 % of it 99 times of 100.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_no_configurations_have_no_speedups() -> None:
    """An empty study is no error."""
    assert speedups({}) == []
