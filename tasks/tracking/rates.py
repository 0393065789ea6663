"""How fast a run descends: the exponent of its squared gradient norm, with its uncertainty.

b is the slope of log |grad f(x_t)|^2 against log t over the last decade of rounds: there the run
behaves like t^b, and one that stays at a floor, of noise or of bias, has b = 0. The run's step is
what it is. The theorems speak of something else: of G(T) = (1/T) sum_{t<T} |grad f(x_t)|^2 over
runs whose step shrinks with their length, a ~ 1/sqrt(T), which falls like 1/sqrt(m K T) from one T
to another; that is what ``speedups`` compares.

Symbols: t round, T rounds of a run, b the exponent, m returns an update, K local steps of a return.

References:
    M. G. Kendall, "Note on bias in the estimation of autocorrelation", Biometrika 41, 1954.
    B. Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research
    30(3), 1982 (why few batches).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.tracking.nightly_statistics import student_quantile

Floats = NDArray[np.float64]

MIN_POINTS = 5
OUTSIDE = 0.05
"""Of the 95 % intervals."""
_DECADE = 0.1
_LEAST_FITTED = 4
_MOST_BATCHES = 20
_MOST_CORRELATED = 0.98
_LEAST_DEGREES = 2
_MOST_ROUNDS = 1_000_000  # filled in one by one; of a longer run, so many evenly spaced


@dataclass(frozen=True)
class RateFit:
    """A fitted exponent b of |grad f|^2 ~ t^b.

    Attributes:
        exponent: b.
        low: Lower end of the 95 % confidence interval.
        high: Its upper end.
        num_points: Measurements of the gradient norm in the last decade of rounds.
    """

    exponent: float
    low: float
    high: float
    num_points: int


def fit_rate(rounds: ArrayLike, grad_sq_norms: ArrayLike) -> RateFit | None:
    """Fit b in |grad f(x_t)|^2 ~ t^b to the last decade of one run, by least squares in logarithms.

    The measurements from T/10 on are averaged in 20 batches, each as many of them as the others
    (so that all batches are equally certain), and a line is fitted to the means of the logarithms.
    Iterates of one run depend on each other, and so do neighbouring batches of a short run:
    residuals taken as independent would claim too small an error. So they are taken as an AR(1)
    process, whose correlation is estimated from them and corrected for its bias. The interval is
    b -+ Student's quantile times the standard error, with as many degrees of freedom as there are
    independent values, less three.

    In simulations (400 runs each; log-normal noise of autocorrelation 0 to 0.95, sums of two such,
    chi-squared noise) the interval covered the true exponent in 89 to 98 % of the runs with 90
    measurements in the decade, in 80 to 97 % with 20. Noise that is slower than the decade is long
    cannot be told from a slope.

    Args:
        rounds: Rounds at which the gradient was measured, increasing.
        grad_sq_norms: Squared norm of the gradient at each of them.

    Returns:
        The fit; None if there are fewer than 5 measurements, or 4 in the last decade, if one is not
        above zero (an exactly solved problem has no rate), or if all are equal.
    """
    decade = _last_decade(rounds, grad_sq_norms)
    if decade is None:
        return None
    log_t, logs = (_batch_means(one) for one in decade)
    return _line(log_t, logs, num_points=len(decade[0]))


def fit_rate_over_seeds(runs: Sequence[tuple[ArrayLike, ArrayLike]]) -> RateFit | None:
    """Average b over runs that differ in their seed only.

    Runs are independent of each other, so their exponents are: the interval is Student's, from
    their spread, which is right whatever happens inside the runs.

    Args:
        runs: (rounds, squared gradient norms) of each run.

    Returns:
        The mean, where num_points counts those of all runs; of a single run, that of ``fit_rate``.
        None if a run has none.
    """
    if len(runs) == 1:
        return fit_rate(*runs[0])
    found = [fit_rate(*run) for run in runs]
    fits = [one for one in found if one is not None]
    if not fits or len(fits) < len(found):
        return None
    exponents = np.array([fit.exponent for fit in fits])
    mean = float(exponents.mean())
    error = float(exponents.std(ddof=1)) / len(fits) ** 0.5
    half = error * student_quantile(OUTSIDE, len(fits) - 1)
    return RateFit(mean, mean - half, mean + half, sum(fit.num_points for fit in fits))


def mean_square_gradient(rounds: ArrayLike, grad_sq_norms: ArrayLike, until: float) -> float | None:
    """Return G(T) of one run.

    Args:
        rounds: Rounds at which the gradient was measured, increasing. Rounds in between are filled
            in along a straight line in log-log.
        grad_sq_norms: Squared norm of the gradient at each of them.
        until: T, counted from the first measurement.

    Returns:
        G at the last measurement up to T; None for a run of fewer than 5 measurements, with one
        that is not above zero or with no change at all, or whose second measurement is later than
        T.
    """
    at, measured = _usable(rounds, grad_sq_norms)
    if not len(at) or at[1] - at[0] > until:
        return None
    end = at[np.searchsorted(at - at[0], until, side="right") - 1]
    filled_at = np.arange(at[0], end, max(1.0, (end - at[0]) / _MOST_ROUNDS))
    filled = np.exp(np.interp(np.log1p(filled_at), np.log1p(at), np.log(measured)))
    return float(filled.mean())


@dataclass(frozen=True)
class Speedup:
    """How much a configuration gains over the base, at equal rounds.

    The leading term of the theorems' bound is G ~ 1/sqrt(m K T), so that (G of the base / G)^2 is
    m K over that of the base where the speed-up is linear. It is not by how much the rounds may be
    cut: with fewer rounds the step has to be larger, and the bound's other terms count.

    Attributes:
        collect: m.
        local_steps: K.
        ideal: m K relative to the base.
        measured: (G of the base / G)^2, each G a mean over seeds.
        low: Lower end of its 95 % confidence interval, as far as seeds tell; None where every
            configuration ran with one seed only. The base is 1 by definition.
        high: Upper end.
    """

    collect: float
    local_steps: float
    ideal: float
    measured: float
    low: float | None
    high: float | None


def speedups(measured: Mapping[tuple[float, float], Sequence[float]]) -> list[Speedup]:
    """Compare configurations with the one of the smallest m K.

    Both the base and the configuration are means over few seeds. Their relative errors are taken as
    alike in all configurations, which gives Student's interval of the logarithm as many degrees of
    freedom as all have seeds, less one each.

    Args:
        measured: (m, K) -> G(T) of each seed, all at the same T and all above zero.

    Returns:
        One value a configuration, the base included, by increasing m K; empty if there is none.
    """
    if not measured:
        return []
    ordered = sorted(measured, key=lambda pair: (pair[0] * pair[1], pair))
    base = measured[ordered[0]]
    base_product = ordered[0][0] * ordered[0][1]
    half_of_one = _half_width_of_one(list(measured.values()))
    found = []
    for collect, steps in ordered:
        values = measured[collect, steps]
        gain = float(np.mean(base) / np.mean(values)) ** 2
        factor = None
        if values is base:
            factor = 1.0
        elif half_of_one is not None:  # the square doubles it
            factor = float(np.exp(2 * half_of_one * (1 / len(base) + 1 / len(values)) ** 0.5))
        found.append(
            Speedup(
                collect=collect,
                local_steps=steps,
                ideal=collect * steps / base_product,
                measured=gain,
                low=None if factor is None else gain / factor,
                high=None if factor is None else gain * factor,
            )
        )
    return found


def _half_width_of_one(samples: Sequence[Sequence[float]]) -> float | None:
    """Half a 95 % interval of log G of one run, from the spread within samples; None of ones."""
    degrees = sum(len(values) - 1 for values in samples)
    if not degrees:
        return None
    squares = sum(float(np.var(np.log(values))) * len(values) for values in samples)
    return math.sqrt(squares / degrees) * student_quantile(OUTSIDE, degrees)


def _usable(rounds: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """Leave out what is not finite; empty if a rate or a mean cannot be told from the rest."""
    at, measured = np.asarray(rounds, dtype=float), np.asarray(values, dtype=float)
    finite = np.isfinite(measured)
    at, measured = at[finite], measured[finite]
    if len(at) < MIN_POINTS or measured.min() <= 0 or measured.min() == measured.max():
        return at[:0], measured[:0]
    return at, measured


def _last_decade(rounds: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats] | None:
    """Logarithms of round and value from T/10 on; None if they are too few."""
    at, measured = _usable(rounds, values)
    is_late = (at > 0) & (at >= _DECADE * at[-1:])
    if is_late.sum() < _LEAST_FITTED:
        return None
    return np.log(at[is_late]), np.log(measured[is_late])


def _batch_means(values: Floats) -> Floats:
    return np.array([part.mean() for part in np.array_split(values, _MOST_BATCHES) if len(part)])


def _line(x: Floats, y: Floats, *, num_points: int) -> RateFit:
    """Fit a line through points whose errors are an AR(1) process; shape (n,) both.

    The errors are those about a parabola: a run that is no power law bends, and that is no noise.
    """
    num = len(x)
    centred = x - x.mean()
    weights = centred / (centred @ centred)
    exponent = float(weights @ y)
    parabola, _ = np.linalg.qr(np.stack([np.ones(num), centred, centred**2], axis=1))
    residuals = y - parabola @ (parabola.T @ y)
    correlation = _autocorrelation(residuals)
    position = np.arange(num)
    covariance = correlation ** np.abs(position[:, None] - position)
    # Of n s^2 the parabola takes the trace of the covariance on it.
    left = num - float(np.trace(parabola.T @ covariance @ parabola))
    variance = float(residuals @ residuals) / left
    error = float(np.sqrt(variance * (weights @ covariance @ weights)))
    degrees = int(num * (1 - correlation) / (1 + correlation)) - parabola.shape[1]
    half = error * student_quantile(OUTSIDE, max(_LEAST_DEGREES, degrees))
    return RateFit(exponent, exponent - half, exponent + half, num_points)


def _autocorrelation(residuals: Floats) -> float:
    """Lag-1 autocorrelation about a parabola, corrected for its bias; in [0, 0.98]."""
    total = float(residuals @ residuals)
    if total == 0:
        return 0.0
    raw = float(residuals[1:] @ residuals[:-1]) / total
    # Kendall's -(1 + 4 rho) / n is about a mean; what follows the points more closely takes more.
    return float(np.clip(raw + (4 + 4 * raw) / len(residuals), 0.0, _MOST_CORRELATED))
