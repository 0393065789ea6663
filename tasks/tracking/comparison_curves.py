"""Curves of several subjects: where they can be compared, and how they look in one line of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from tasks.runtime.metrics import Metric
from tasks.tracking.comparison import Case
from tasks.tracking.history import RunHistory, Series

CURVES = (Metric.TRAIN_LOSS, Metric.VALIDATION_LOSS, Metric.TEST_ACCURACY, Metric.TRAIN_GRAD_NORM)
"""What is compared along the way, where it was measured."""
CLOCKS: Mapping[str, Metric | None] = {
    "step": None,
    "virtual time (s)": Metric.VIRTUAL_S,
    "wall time (s)": Metric.WALL_S,
    "tokens": Metric.TOKENS_TOTAL,
}
"""What curves can be drawn over."""
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 24


@dataclass(frozen=True)
class CurveRow:
    """One metric of one case, at the last step at which all sides were measured.

    Attributes:
        label: Of the case.
        metric: The metric.
        step: That step.
        values: Subject -> mean over its seeds there.
        sparks: Subject -> the curve up to there; all on one scale.
    """

    label: str
    metric: Metric
    step: int
    values: Mapping[str, float]
    sparks: Mapping[str, str]


def curve_rows(case: Case) -> list[CurveRow]:
    """Compare the curves of a case at equal steps.

    Args:
        case: The case.

    Returns:
        A row for each metric that all its runs have measured at a common step.
    """
    rows = []
    for metric in CURVES:
        means = {name: mean_curve(runs, metric) for name, runs in case.members.items()}
        common = reduce(np.intersect1d, [one.rounds for one in means.values()])
        if not len(common):
            continue
        begin, end = max(one.rounds[0] for one in means.values()), common[-1]
        at = np.linspace(begin, end, _WIDTH)
        drawn = {name: np.interp(at, one.rounds, one.values) for name, one in means.items()}
        rows.append(
            CurveRow(
                label=case.label,
                metric=metric,
                step=int(end),
                values={name: float(values[-1]) for name, values in drawn.items()},
                sparks=sparklines(drawn),
            )
        )
    return rows


def mean_curve(runs: Sequence[RunHistory], metric: Metric) -> Series:
    """Average a metric over runs, where all of them have it.

    Args:
        runs: Runs that differ in their seed only.
        metric: The metric.

    Returns:
        The mean at the steps that they have in common; empty if one has none.
    """
    series = [run.series(metric) for run in runs]
    steps = series[0].rounds
    for one in series[1:]:
        steps = np.intersect1d(steps, one.rounds)
    rows = [one.values[np.isin(one.rounds, steps)] for one in series]
    return Series(steps, np.mean(rows, axis=0)) if len(steps) else Series(steps, steps)


def sparklines(curves: Mapping[str, NDArray[np.float64]]) -> dict[str, str]:
    """Draw curves as text, all on one scale.

    Args:
        curves: Name -> values, each of any positive length.

    Returns:
        Name -> a character a value.
    """
    together = np.concatenate(list(curves.values()))
    low, high = float(together.min()), float(together.max())
    span = high - low or 1.0
    return {
        name: "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in values)
        for name, values in curves.items()
    }
