"""Whether results of two sets of runs differ by more than seeds do; arithmetic only.

Runs of the same seed share their data, their initial model and what is drawn: where both sides ran
with the same seeds, the differences seed by seed are tested (paired); else the two means (Welch).
Seeds say how far chance reaches in the runs of today. They say nothing of another day, another
machine or other data: see ``nightly_statistics`` for that.

References:
    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34, 1947. S. Holm: see ``nightly_statistics``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.tracking.history import RunHistory
from tasks.tracking.nightly_metrics import HIGHER_IS_BETTER
from tasks.tracking.nightly_statistics import Verdict, holm, student_outside
from tasks.tracking.rows import row_of
from tasks.tracking.runs import result_metrics

CONFIDENCE = 0.95
_LEFT_OUT = {"rate_low", "rate_high"}
_ROUNDING = 1e-9
_LEAST_SEEDS = 2


@dataclass(frozen=True)
class Spread:
    """What the runs of one side have measured.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation; None of a single run.
        count: How many.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """One measure of one case, the second side against the first.

    Attributes:
        measure: Its name, as in MLflow behind ``result/``.
        first: The first side.
        second: The second.
        verdict: better, worse, same (equal to the last digit), or cannot tell.
        p_value: Of the test, not corrected; None if there was nothing to test.
        reason: Why it cannot be told; else what the mark rests on.
    """

    measure: str
    first: Spread
    second: Spread
    verdict: Verdict
    p_value: float | None
    reason: str

    @property
    def absolute(self) -> float:
        """Second minus first."""
        return self.second.mean - self.first.mean

    @property
    def relative(self) -> float | None:
        """The same over the first; None where that is 0."""
        return self.absolute / abs(self.first.mean) if self.first.mean else None


def differences(
    pairs: Sequence[tuple[Sequence[RunHistory], Sequence[RunHistory]]],
) -> list[list[Difference]]:
    """Compare pairs of sides by everything that both have measured.

    *Better* and *worse* are marked at 95 % for all tested marks together (Holm's correction), and
    where neither side varies with its seeds.

    Args:
        pairs: The first side, which the second is compared with.

    Returns:
        For each pair its measures, in the order of ``result_metrics``.
    """
    raw = [_differences(first, second) for first, second in pairs]
    tested = [(pair, n) for pair, found in enumerate(raw) for n, one in enumerate(found)
              if one.p_value is not None]  # fmt: skip
    adjusted = holm([raw[pair][n].p_value or 0.0 for pair, n in tested]) if tested else []
    for (pair, n), p_value in zip(tested, adjusted, strict=True):
        raw[pair][n] = _marked(raw[pair][n], p_value)
    return raw


def _marked(one: Difference, adjusted: float) -> Difference:
    if adjusted >= 1 - CONFIDENCE:
        return one
    return replace(one, verdict=_direction(one), reason=f"beyond chance, p = {adjusted:.2g}")


def _direction(one: Difference) -> Verdict:
    is_better = (one.absolute > 0) is (one.measure in HIGHER_IS_BETTER)
    return Verdict.BETTER if is_better else Verdict.WORSE


def _differences(first: Sequence[RunHistory], second: Sequence[RunHistory]) -> list[Difference]:
    a, b = _by_seed(first), _by_seed(second)
    names = dict.fromkeys(name for values in (*a.values(), *b.values()) for name in values)
    found = []
    for name in names:
        x = {seed: values[name] for seed, values in a.items() if name in values}
        y = {seed: values[name] for seed, values in b.items() if name in values}
        if name not in _LEFT_OUT and x and y:
            found.append(compare_seeds(name, x, y))
    return found


def _by_seed(runs: Sequence[RunHistory]) -> dict[str, dict[str, float]]:
    """Seeds of a run -> its finite results; one without a line has none, not even 0 refused."""
    found: dict[str, dict[str, float]] = {}
    for number, run in enumerate(runs):
        if not run.metrics:
            continue
        seeds = [str(run.job.experiment.seed)]
        data = getattr(run.job.experiment, "data", None)
        seeds.append(str(getattr(data, "seed", "")))
        values = {n: v for n, v in result_metrics(row_of(run)).items() if v is not None}
        key = "/".join(seeds)
        found[key if key not in found else f"{key} #{number}"] = values
    return found


def compare_seeds(name: str, first: Mapping[str, float], second: Mapping[str, float]) -> Difference:
    """Compare one measure of two sides.

    Args:
        name: Of the measure.
        first: Seed -> value, at least one.
        second: The same of the other side.

    Returns:
        The difference. What is to be tested is not marked yet. Values that no seed changes are
        marked: there is no chance in them, and no test.
    """
    x, y = np.array(list(first.values())), np.array(list(second.values()))
    one = Difference(name, _spread(x), _spread(y), Verdict.CANNOT_TELL, None, "")
    if first == second or len({*first.values(), *second.values()}) == 1:
        return replace(one, verdict=Verdict.SAME, reason="equal to the last digit")
    if min(len(x), len(y)) < _LEAST_SEEDS:
        return replace(one, reason="one seed does not tell chance")
    rounding = _ROUNDING * max(abs(one.first.mean), abs(one.second.mean))
    if max(x.std(), y.std()) <= rounding:
        if abs(one.absolute) <= rounding:
            return replace(one, reason="equal but for rounding")
        return replace(one, verdict=_direction(one), reason="no seed changes either")
    if set(first) == set(second):
        deltas = np.array([second[seed] - first[seed] for seed in first])
        error, degrees = float(deltas.std(ddof=1)) / math.sqrt(len(deltas)), len(deltas) - 1
    else:
        error, degrees = _welch(x, y)
    if error <= rounding:  # as whole numbers do: t would be infinite, whatever chance does
        return replace(one, reason="all seeds differ alike, so chance is not seen")
    p_value = student_outside(abs(one.absolute) / error, degrees)
    return replace(one, p_value=p_value, reason="seeds differ by as much")


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """Standard error of the difference of means, and its degrees of freedom, rounded down."""
    a, b = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    degrees = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    return math.sqrt(a + b), max(1, int(degrees))


def _spread(values: np.ndarray) -> Spread:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Spread(float(values.mean()), deviation, len(values))
