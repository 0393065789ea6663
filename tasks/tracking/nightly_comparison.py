"""Tonight against the nights before: every point by every metric, and what is to be said of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import numpy as np

from tasks.tracking.nightly_history import History, PastNight
from tasks.tracking.nightly_metrics import HIGHER_IS_BETTER
from tasks.tracking.nightly_points import PointGroup, Repeat, failures
from tasks.tracking.nightly_statistics import Comparison, Rule, Sample, Verdict, compare

NEW_LEVEL_NIGHTS = 4
"""So many nights without a break that were better are what later nights are compared with. With
fewer only enormous regressions from there could be told: three nights know their spread with two
degrees of freedom."""


@dataclass(frozen=True)
class Origin:
    """Where a regression comes from, as far as earlier nights tell.

    Attributes:
        good: The newest earlier night that was not worse; None if there is none.
        since: The first night of those that were worse without a break, tonight at the latest.
        commit: Of the code of that night; empty if it is not known.
    """

    good: PastNight | None
    since: date
    commit: str


@dataclass(frozen=True)
class PointComparison:
    """One point by one metric.

    Attributes:
        label: Of the point.
        metric: Name without ``result/``.
        result: What came out.
        tonight: A value a repeat that has finished.
        nights: Date and values of the earlier nights that were compared with, the newest first.
        tonight_run_id: A run of tonight to look at.
        reference_run_id: The same repeat in an earlier night, to compare it with; empty if there is
            none.
        origin: Of a regression; else None.
        level_since: The first night of the last improvement that stayed: nights before it are no
            reference. None if there was none in the nights that were looked at.
        num_zero_nights: Earlier nights that were measured and cannot be compared with, as a value
            of theirs is not above zero.
    """

    label: str
    metric: str
    result: Comparison
    tonight: tuple[float, ...]
    nights: tuple[tuple[date, tuple[float, ...]], ...]
    tonight_run_id: str
    reference_run_id: str
    origin: Origin | None
    level_since: date | None = None
    num_zero_nights: int = 0

    @property
    def reference(self) -> float | None:
        """Median over the earlier nights of their means; None without nights."""
        means = [np.mean(values) for _, values in self.nights]
        return float(np.median(means)) if means else None


class Outcome(StrEnum):
    """What a night amounts to; the first that applies."""

    REGRESSION = "regression"
    FAILED = "points failed"
    FIRST = "no earlier night"
    BETTER = "better"
    CANNOT_TELL = "cannot tell"
    SAME = "same"


def compare_points(
    groups: Sequence[PointGroup],
    history: History,
    metrics: Sequence[str],
    rule: Rule,
    *,
    tonight: date,
    commit: str,
    num_nights: int,
) -> list[PointComparison]:
    """Compare all points of a night.

    Nights on which a point was worse by a metric are no reference for it: else a regression would
    pass for the noise of nights on its second night, and for the normal state after some more. So
    it is told every night until it is mended, or accepted by ``since``. An improvement is accepted
    by itself: see ``_reference``.

    Args:
        groups: Tonight's points; of each, the repeats that have finished count.
        history: The nights before.
        metrics: By what.
        rule: What counts as a change.
        tonight: The date.
        commit: Of tonight's code; empty if it is not known.
        num_nights: Most earlier nights of a point.

    Returns:
        One value for each point and metric that tonight has measured.
    """
    chosen: list[tuple[PointGroup, str, list[PastNight]]] = []
    for group in groups:
        for metric in metrics:
            repeats = group.finished
            if repeats and all(metric in one.values for one in repeats):
                nights = [one for one in history.nights if _has(one, repeats, metric)]
                chosen.append((group, metric, nights))
    references = [
        _reference(nights, group.finished, metric, num_nights) for group, metric, nights in chosen
    ]
    samples = [
        Sample(
            tonight=[one.values[metric] for one in group.finished],
            nights=[_values(night, group.finished, metric) for night in reference.nights],
            higher_is_better=metric in HIGHER_IS_BETTER,
            num_zero_nights=_num_zero(history, group.finished, metric),
        )
        for (group, metric, _), reference in zip(chosen, references, strict=True)
    ]
    compared = []
    for (group, metric, nights), reference, result in zip(
        chosen, references, compare(samples, rule), strict=True
    ):
        is_worse = result.verdict is Verdict.WORSE
        origin = _origin(nights, group.finished, metric, tonight, commit) if is_worse else None
        told = _told(group, metric, reference, result, origin)
        num_zero = _num_zero(history, group.finished, metric)
        compared.append(replace(told, num_zero_nights=num_zero))
    return compared


@dataclass(frozen=True)
class _Reference:
    """The nights that tonight is compared with, the newest first, and since when they are alike."""

    nights: list[PastNight]
    level_since: date | None = None


def _reference(
    nights: Sequence[PastNight], repeats: Sequence[Repeat], metric: str, num_nights: int
) -> _Reference:
    """Choose the nights of the level that is there now, by the marks that they have.

    An improvement that stays is a step, which as a reference together with the nights before would
    pass for noise as large as itself. So its first nights are no reference: it is told as *better*
    until there are ``NEW_LEVEL_NIGHTS`` of it; from then on they are the reference, and nights
    before them no longer. Fewer of them, between nights that were not better, are noise and stay.
    """
    used: list[PastNight] = []
    better: list[PastNight] = []
    for night in nights:
        marks = _marks(night, repeats, metric)
        if Verdict.WORSE in marks:
            continue
        if Verdict.BETTER in marks:
            better.append(night)
            continue
        if len(better) >= NEW_LEVEL_NIGHTS:
            break
        used += [*(better if used else ()), night]
        better = []
    if len(better) >= NEW_LEVEL_NIGHTS:
        return _Reference([*used, *better][:num_nights], better[-1].night)
    return _Reference([*used, *(better if used else ())][:num_nights])


def _marks(night: PastNight, repeats: Sequence[Repeat], metric: str) -> set[str | None]:
    return {night.runs[one.config_hash].marks.get(metric) for one in repeats}


def _has(night: PastNight, repeats: Sequence[Repeat], metric: str) -> bool:
    """Whether a night has a value above zero of each repeat: others have no logarithm."""
    return all(0 < value < math.inf for value in _found(night, repeats, metric))


def _num_zero(history: History, repeats: Sequence[Repeat], metric: str) -> int:
    """Count the nights that have a value of each repeat, and one that is not above zero."""
    found = [_found(night, repeats, metric) for night in history.nights]
    return sum(all(map(math.isfinite, values)) and min(values) <= 0 for values in found)


def _found(night: PastNight, repeats: Sequence[Repeat], metric: str) -> list[float]:
    """Values of the repeats; NaN where there is none."""
    runs = [night.runs.get(one.config_hash) for one in repeats]
    return [run.values.get(metric, math.nan) if run is not None else math.nan for run in runs]


def _values(night: PastNight, repeats: Sequence[Repeat], metric: str) -> tuple[float, ...]:
    return tuple(night.runs[one.config_hash].values[metric] for one in repeats)


def _told(
    group: PointGroup,
    metric: str,
    reference: _Reference,
    result: Comparison,
    origin: Origin | None,
) -> PointComparison:
    repeats, nights = group.finished, reference.nights
    first = repeats[0]
    beside = (origin.good if origin else None) or (nights[0] if nights else None)
    return PointComparison(
        label=group.label,
        metric=metric,
        result=result,
        tonight=tuple(one.values[metric] for one in repeats),
        nights=tuple((night.night, _values(night, repeats, metric)) for night in nights),
        tonight_run_id=first.run_id,
        reference_run_id=beside.runs[first.config_hash].run_id if beside else "",
        origin=origin,
        level_since=reference.level_since,
    )


def _origin(
    nights: Sequence[PastNight],
    repeats: Sequence[Repeat],
    metric: str,
    tonight: date,
    commit: str,
) -> Origin:
    """Go back over the nights that were marked worse, to the first that was not."""
    since, of = tonight, commit
    for night in nights:
        if Verdict.WORSE not in _marks(night, repeats, metric):
            return Origin(night, since, of)
        since, of = night.night, night.commit
    return Origin(None, since, of)


def unmeasured(groups: Sequence[PointGroup], metrics: Sequence[str]) -> list[str]:
    """List what was to be compared, and what tonight has not measured though it has finished.

    Args:
        groups: Tonight's points.
        metrics: What is compared.

    Returns:
        Such as ``mfu of zero3``.
    """
    return [
        f"{metric} of {group.label}"
        for group in groups
        for metric in metrics
        if group.finished and not all(metric in one.values for one in group.finished)
    ]


def outcome_of(
    groups: Sequence[PointGroup], compared: Sequence[PointComparison], missing: Sequence[str]
) -> Outcome:
    """Say what a night amounts to.

    Args:
        groups: Its points.
        compared: Their comparisons.
        missing: What was to be compared, and was not measured.
    """
    verdicts = {one.result.verdict for one in compared}
    if Verdict.WORSE in verdicts:
        return Outcome.REGRESSION
    if failures(groups):
        return Outcome.FAILED
    if missing or not compared:
        return Outcome.CANNOT_TELL
    if not any(one.nights or one.num_zero_nights for one in compared):
        return Outcome.FIRST
    if Verdict.BETTER in verdicts:
        return Outcome.BETTER
    return Outcome.CANNOT_TELL if Verdict.CANNOT_TELL in verdicts else Outcome.SAME
