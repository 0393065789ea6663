"""Whether tonight's measurements differ from those of the nights before; arithmetic only.

A point is measured by R repeats (runs that differ in their seed only) a night. Nights differ from
each other by more than repeats of one night do: other nodes, other neighbours on the network, other
temperatures. So the model of the logarithm of a measurement is

    x[n, r] = level + night[n] + repeat[r] + rest[n, r],

and what tonight is to be compared with is the spread of whole nights, not that of repeats.

Symbols: K earlier nights, R repeats, d = mean of tonight's x - median of the nights' means, s its
standard error, m comparisons that are made in one night.

References:
    E. M. Cameron and D. L. Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of
    Human Resources 50(2), 2015 (resampling whole clusters; few of them). T. Hesterberg, "What
    Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015 (too-narrow
    intervals of few replicates). S. Holm, "A Simple Sequentially Rejective Multiple Test
    Procedure", Scandinavian Journal of Statistics 6(2), 1979. M. Abramowitz and I. A. Stegun,
    "Handbook of Mathematical Functions", 26.7.3 and 26.7.4 (Student's distribution).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_NIGHTS = 2
"""Fewer do not tell by how much nights differ."""
_ROUNDING = 1e-9
"""Least standard error: measurements that are equal to the last bit are not known better."""
_LEAST_SURE = 0.5
"""Below this confidence, a change that is seen as small may as well be a large one."""

_WIDENED_BY = 1.07
"""Widens s: nights that were worse are no reference later, so the others differ by less than nights
do, false alarms being among them. Without it 6 % of nights had a mark instead of 5 % (simulated
sequences of nights without any change, K = 10)."""


class Verdict(StrEnum):
    """How tonight compares with the nights before."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Rule:
    """What counts as a change.

    Attributes:
        least_effect: A smaller change is none, relative, at least 0; 0.02 is 2 %.
        confidence: Of all marks *better* and *worse* of one night together: when nothing has
            changed, there is any such mark in 1 - confidence of the nights at most; in (0, 1).
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    least_effect: float = 0.02
    confidence: float = 0.95
    num_resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One point by one metric.

    Attributes:
        tonight: One value a repeat, above zero, length R.
        nights: The same of each earlier night, K rows of length R, in any order; column r is the
            same repeat (seed) in all of them and in ``tonight``.
        higher_is_better: Whether a larger value is a better one.
        num_zero_nights: Earlier nights that are left out, as a value of theirs is not above zero.
    """

    tonight: Sequence[float]
    nights: Sequence[Sequence[float]]
    higher_is_better: bool
    num_zero_nights: int = 0


@dataclass(frozen=True)
class Comparison:
    """What came out of a sample. What is not known is None.

    Attributes:
        verdict: The mark.
        confidence: Of *better* and *worse*: that there is a change at all, all comparisons of the
            night taken into account. Of *same*: that the change is below the least effect. In
            [0, 1].
        ratio: Tonight over the median of the earlier nights.
        low: Lower end of the interval of the ratio, at the rule's confidence for this one
            comparison alone.
        high: Upper end.
        noticeable: The smallest change, relative, that would have been marked tonight.
        num_nights: K.
        reason: Why it cannot be told; else empty.
    """

    verdict: Verdict
    confidence: float | None
    ratio: float | None
    low: float | None
    high: float | None
    noticeable: float | None
    num_nights: int
    reason: str = ""


@dataclass(frozen=True)
class _Difference:
    """d and s of a sample, both of logarithms, with s known from so many degrees of freedom."""

    estimate: float
    error: float
    degrees: int

    @property
    def p_value(self) -> float:
        """Probability of a difference as large as this, either way, if nothing has changed."""
        return student_outside(abs(self.estimate) / self.error, self.degrees)


def compare(samples: Sequence[Sample], rule: Rule) -> list[Comparison]:
    """Compare all points of one night with the nights before.

    s comes from a bootstrap over nights and over repeats. In each resample the earlier nights are
    drawn anew from their own deviations, and the repeats inside each night from theirs; and so is
    tonight, which has a deviation of its own however good its repeats agree. K nights tell the
    spread of nights with K - 1 degrees of freedom only, hence p-values and intervals are those of
    Student's distribution. The noise inside nights is counted twice, once in the nights' own
    spread, so s is rather too large.

    Marks: *better* or *worse* if d is beyond the least effect and significant after Holm's
    correction for all comparisons of the night (it holds however they depend on each other: points
    of one night share its troubles). *Same* if d is below the least effect, and it is more likely
    than not that the change is. *Cannot tell* if d is beyond it but within the noise, if nights
    differ by more than the least effect, or if there are fewer than two of them.

    Not in the model: a drift from night to night, and nights that depend on each other.

    Args:
        samples: The comparisons of one night: points x metrics.
        rule: What counts as a change.

    Returns:
        One value a sample, the same for the same rule whatever the order of nights and repeats.

    Raises:
        ValueError: A night has another number of repeats than tonight, or there are none.
    """
    differences = [_difference(sample, rule) for sample in samples]
    known = [one for one in differences if isinstance(one, _Difference)]
    adjusted = iter(holm([one.p_value for one in known]))
    return [
        _compared(sample, one, next(adjusted), len(known), rule)
        if isinstance(one, _Difference)
        else Comparison(
            verdict=Verdict.CANNOT_TELL,
            confidence=None,
            ratio=_plain_ratio(sample),
            low=None,
            high=None,
            noticeable=None,
            num_nights=len(sample.nights),
            reason=one,
        )
        for sample, one in zip(samples, differences, strict=True)
    ]


def _plain_ratio(sample: Sample) -> float | None:
    """The ratio where nothing is known of the noise."""
    if not sample.nights:
        return None
    reference = float(np.median([np.mean(night) for night in sample.nights]))
    return float(np.mean(sample.tonight)) / reference if reference > 0 else None


def _compared(
    sample: Sample, difference: _Difference, p_value: float, num_comparisons: int, rule: Rule
) -> Comparison:
    estimate, error, degrees = difference.estimate, difference.error, difference.degrees
    margin = math.log1p(rule.least_effect)
    alpha = 1.0 - rule.confidence
    half = error * student_quantile(alpha, degrees)
    needed = error * student_quantile(alpha / num_comparisons, degrees)
    reason = ""
    confidence = 1.0 - p_value
    if abs(estimate) < margin or estimate == 0.0:
        verdict = Verdict.SAME
        confidence = _within(margin, abs(estimate), error, degrees)
        if confidence < _LEAST_SURE:
            verdict = Verdict.CANNOT_TELL
            reason = "nights differ by more than the least effect"
    elif p_value >= alpha:
        verdict = Verdict.CANNOT_TELL
        reason = "nights differ by as much"
    else:
        is_better = (estimate > 0) is sample.higher_is_better
        verdict = Verdict.BETTER if is_better else Verdict.WORSE
    return Comparison(
        verdict=verdict,
        confidence=confidence,
        ratio=math.exp(estimate),
        low=_exp(estimate - half),
        high=_exp(estimate + half),
        noticeable=max(rule.least_effect, _exp(needed) - 1.0),
        num_nights=len(sample.nights),
        reason=reason,
    )


def _within(margin: float, estimate: float, error: float, degrees: int) -> float:
    """Return how sure a change is below a margin, either way; the estimate is in [0, margin)."""
    above = 0.5 * student_outside((margin - estimate) / error, degrees)
    below = 0.5 * student_outside((margin + estimate) / error, degrees)
    return 1.0 - above - below


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # an interval from two nights may be that wide


def _difference(sample: Sample, rule: Rule) -> _Difference | str:
    """Return d and s, or why they are not known.

    Raises:
        ValueError: A night has another number of repeats than tonight, or there are none.
    """
    num_repeats = len(sample.tonight)
    if not num_repeats or any(len(night) != num_repeats for night in sample.nights):
        raise ValueError("every night needs a value of each of tonight's repeats, of one at least")
    if not sample.nights and sample.num_zero_nights:
        return "earlier nights have values not above zero, so there is no ratio"
    if not sample.nights:
        return "no earlier night"
    if len(sample.nights) < MIN_NIGHTS:
        return "one earlier night does not tell by how much nights differ"
    values = np.array([sample.tonight, *sample.nights], dtype=float)
    if not np.all(np.isfinite(values)) or values.min() <= 0:
        return "a value is not above zero, so there is no ratio"
    logs = _in_one_order(np.log(values))
    tonight, nights = logs[0], logs[1:]
    means = nights.mean(axis=1)
    estimate = float(tonight.mean() - np.median(means))
    rng = np.random.default_rng(rule.seed)
    error = _standard_error(tonight, nights, rng, rule.num_resamples)
    return _Difference(estimate, max(error, _ROUNDING), len(nights) - 1)


def _in_one_order(logs: Floats) -> Floats:
    """Sort repeats and earlier nights, as the draws of the bootstrap go by position.

    What differs by rounding alone, which another unit changes, is no order.
    """
    keys = np.round((logs - logs.mean()) / _ROUNDING)
    columns = np.lexsort(np.vstack([np.sort(keys[1:], axis=0)[::-1], keys[0]]))
    logs, keys = logs[:, columns], keys[:, columns]
    rows = np.lexsort(keys[1:].T)
    return np.vstack([logs[:1], logs[1:][rows]])


def _standard_error(
    tonight: Floats, nights: Floats, rng: np.random.Generator, num_resamples: int
) -> float:
    """Return s of d: tonight's mean against the median of the nights' means; (R,) and (K, R)."""
    num_nights, num_repeats = nights.shape
    means = nights.mean(axis=1)
    # Of few values, deviations from their own mean are too small by the square root of these.
    of_nights = num_nights / (num_nights - 1)
    of_repeats = num_repeats / max(num_repeats - 1, 1)
    deviations = (means - means.mean()) * math.sqrt(of_nights)
    by_repeat = nights.mean(axis=0)  # what a seed does every night is no noise
    rests = nights - means[:, None] - by_repeat + by_repeat.mean()
    rests = rests * math.sqrt(of_nights * of_repeats)
    own = tonight - tonight.mean() - by_repeat + by_repeat.mean()
    own = own * math.sqrt(of_repeats)
    drawn = rng.integers(0, num_nights, (num_resamples, num_nights))
    repeats = rng.integers(0, num_repeats, (num_resamples, num_nights, num_repeats))
    references = np.median(
        deviations[drawn] + rests[drawn[:, :, None], repeats].mean(axis=2), axis=1
    )
    drawn_tonight = deviations[rng.integers(0, num_nights, num_resamples)]
    own_repeats = rng.integers(0, num_repeats, (num_resamples, num_repeats))
    drawn_tonight = drawn_tonight + own[own_repeats].mean(axis=1)
    return _WIDENED_BY * float(np.std(drawn_tonight - references, ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number: to reject those below a leaves the family's error at a.

    Args:
        p_values: In [0, 1], shape (m,).

    Returns:
        The adjusted ones, in the order given.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]


def student_outside(t: float, degrees: int) -> float:
    """Return P(|T| > t) of Student's distribution.

    Args:
        t: At least 0.
        degrees: Degrees of freedom, from 1.
    """
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    total = 0.0 if degrees == 1 else term
    for number in range(3 if is_odd else 2, degrees - 1, 2):
        term *= cosine**2 * (number - 1) / number
        total += term
    inside = 2 / math.pi * (angle + sine * total) if is_odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def student_quantile(outside: float, degrees: int) -> float:
    """Return t with P(|T| > t) = outside, by bisection.

    Args:
        outside: In (0, 1].
        degrees: Degrees of freedom, from 1.
    """
    low, high = 0.0, 1.0
    while student_outside(high, degrees) > outside and high < 1e12:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if student_outside(middle, degrees) > outside:
            low = middle
        else:
            high = middle
    return high
