"""Tonight against the nights before: every point by every metric, and what is to be said of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np

from tasks.tracking.nightly_history import History, PastNight
from tasks.tracking.nightly_metrics import HIGHER_IS_BETTER
from tasks.tracking.nightly_points import PointGroup, Repeat, failures
from tasks.tracking.nightly_statistics import Comparison, Rule, Sample, Verdict, compare


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
    """

    label: str
    metric: str
    result: Comparison
    tonight: tuple[float, ...]
    nights: tuple[tuple[date, tuple[float, ...]], ...]
    tonight_run_id: str
    reference_run_id: str
    origin: Origin | None

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
    it is told every night until it is mended, or accepted by ``since``.

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
        [one for one in nights if not _was_worse(one, group.finished, metric)][:num_nights]
        for group, metric, nights in chosen
    ]
    samples = [
        Sample(
            tonight=[one.values[metric] for one in group.finished],
            nights=[_values(night, group.finished, metric) for night in nights],
            higher_is_better=metric in HIGHER_IS_BETTER,
        )
        for (group, metric, _), nights in zip(chosen, references, strict=True)
    ]
    compared = []
    for (group, metric, nights), used, result in zip(
        chosen, references, compare(samples, rule), strict=True
    ):
        is_worse = result.verdict is Verdict.WORSE
        origin = _origin(nights, group.finished, metric, tonight, commit) if is_worse else None
        compared.append(_told(group, metric, used, result, origin))
    return compared


def _was_worse(night: PastNight, repeats: Sequence[Repeat], metric: str) -> bool:
    marks = {night.runs[one.config_hash].marks.get(metric) for one in repeats}
    return Verdict.WORSE in marks


def _has(night: PastNight, repeats: Sequence[Repeat], metric: str) -> bool:
    """Whether a night has a value above zero of each repeat: others have no logarithm."""
    runs = [night.runs.get(one.config_hash) for one in repeats]
    values = [run.values.get(metric, math.nan) if run is not None else math.nan for run in runs]
    return all(0 < value < math.inf for value in values)


def _values(night: PastNight, repeats: Sequence[Repeat], metric: str) -> tuple[float, ...]:
    return tuple(night.runs[one.config_hash].values[metric] for one in repeats)


def _told(
    group: PointGroup,
    metric: str,
    nights: Sequence[PastNight],
    result: Comparison,
    origin: Origin | None,
) -> PointComparison:
    repeats = group.finished
    first = repeats[0]
    reference = (origin.good if origin else None) or (nights[0] if nights else None)
    return PointComparison(
        label=group.label,
        metric=metric,
        result=result,
        tonight=tuple(one.values[metric] for one in repeats),
        nights=tuple((night.night, _values(night, repeats, metric)) for night in nights),
        tonight_run_id=first.run_id,
        reference_run_id=reference.runs[first.config_hash].run_id if reference else "",
        origin=origin,
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
        if not _was_worse(night, repeats, metric):
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
    if not any(one.nights for one in compared):
        return Outcome.FIRST
    if Verdict.BETTER in verdicts:
        return Outcome.BETTER
    return Outcome.CANNOT_TELL if Verdict.CANNOT_TELL in verdicts else Outcome.SAME
