"""The report of a night: what has changed, by how much, since when, and what to look at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import quote

from tasks.tracking.addresses import LOCAL, opening_command, server_address
from tasks.tracking.nightly_comparison import NEW_LEVEL_NIGHTS, Outcome, PointComparison
from tasks.tracking.nightly_history import History, UnusedNight
from tasks.tracking.nightly_metrics import HIGHER_IS_BETTER
from tasks.tracking.nightly_points import Repeat
from tasks.tracking.nightly_statistics import Rule, Verdict
from tasks.tracking.tables import markdown_table

_MOST_LISTED = 7
_DIGITS = 12
_ORDER = {
    verdict: number
    for number, verdict in enumerate(
        (Verdict.WORSE, Verdict.BETTER, Verdict.CANNOT_TELL, Verdict.SAME)
    )
}


@dataclass(frozen=True)
class Tonight:
    """What a report says of the night itself.

    Attributes:
        study: Name of the study.
        night: Its date.
        directory: Of the study's runs, for people.
        commit: Of the code; empty if it is not known.
        is_dirty: Whether the code was changed since that commit.
        tracking_uri: Where its runs are.
        experiment_id: Of the study in MLflow.
        late: That it began late, in words; empty if it did not.
        missed: Nights that the schedule has and MLflow has not, the newest first; why, as far as it
            is known.
    """

    study: str
    night: date
    directory: str
    commit: str
    is_dirty: bool
    tracking_uri: str
    experiment_id: str
    late: str = ""
    missed: tuple[UnusedNight, ...] = ()


def night_report(
    tonight: Tonight,
    outcome: Outcome,
    compared: Sequence[PointComparison],
    failed: Sequence[Repeat],
    history: History,
    rule: Rule,
    *,
    missing: Sequence[str],
    figure: str,
) -> str:
    """Write the report of a night.

    Args:
        tonight: The night.
        outcome: What it amounts to.
        compared: Its comparisons.
        failed: Its runs that have not finished.
        history: The nights before.
        rule: What counts as a change.
        missing: What was to be compared, and was not measured.
        figure: Name of the figure's file; empty without one.

    Returns:
        Markdown.
    """
    sections = [
        f"# {tonight.study}, night of {tonight.night}: {outcome}",
        headline(outcome, compared, failed, missing) + ".",
        _regressions(tonight, compared),
        _table(compared, rule),
        f"![The nights before]({figure})" if figure else "",
        _failures(failed),
        _nights(tonight, history, compared),
        _reading(compared, rule) if any(one.nights for one in compared) else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def headline(
    outcome: Outcome,
    compared: Sequence[PointComparison],
    failed: Sequence[Repeat],
    missing: Sequence[str],
) -> str:
    """Say in one line what a night amounts to.

    Args:
        outcome: What it amounts to.
        compared: Its comparisons.
        failed: Its runs that have not finished.
        missing: What was to be compared, and was not measured.
    """
    told = []
    worse = [one for one in compared if one.result.verdict is Verdict.WORSE]
    if worse:
        worst = max(worse, key=_size)
        more = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
        told.append(
            f"regression: {worst.metric} of {worst.label} {change(worst.result.ratio)}{more}"
        )
    if failed:
        label = f" ({failed[0].label}: {failed[0].message or failed[0].state})"
        runs = "1 run has" if len(failed) == 1 else f"{len(failed)} runs have"
        told.append(f"points failed: {runs} not finished{label}")
    if missing or not (compared or failed):
        what = _some_words(missing) or "anything: no point has run"
        told.append(f"cannot tell: nobody has measured {what}")
    if outcome is Outcome.FIRST:
        told.append("no earlier night of this configuration on this machine to compare with")
    if not told:
        counts = dict.fromkeys(_ORDER, 0)
        for one in compared:
            counts[one.result.verdict] += 1
        words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        is_blind = counts[Verdict.CANNOT_TELL] == len(compared)
        told.append(
            f"cannot tell: {compared[0].result.reason}" if is_blind else f"no regression: {words}"
        )
    return "; ".join(told)


def _size(one: PointComparison) -> float:
    ratio = one.result.ratio or 1.0
    return max(ratio, 1 / ratio)


def change(ratio: float | None) -> str:
    """Write a ratio as a change: ``-10.2 %``; None gives no text."""
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def _regressions(tonight: Tonight, compared: Sequence[PointComparison]) -> str:
    """Of each regression: how much, since which commit, which two runs to compare."""
    told = [_regression(tonight, one) for one in compared if one.result.verdict is Verdict.WORSE]
    return "## Worse\n\n" + "\n".join(told) if told else ""


def _regression(tonight: Tonight, one: PointComparison) -> str:
    result, origin = one.result, one.origin
    mean = sum(one.tonight) / len(one.tonight)
    lines = [
        f"- **{one.metric}** of **{one.label}**: {mean:.4g} instead of {one.reference:.4g}, "
        f"{change(result.ratio)} [{change(result.low)}, {change(result.high)}], "
        f"confidence {_share(result.confidence)}."
    ]
    if origin is not None:
        lines.append(f"  - {_since(tonight, one)}")
    if one.reference_run_id and one.tonight_run_id:
        address = _compare_address(tonight, one)
        other = one.origin.good.night if one.origin and one.origin.good else "an earlier night"
        pair = f"tonight's run and that of {other}"
        lines.append(f"  - Compare [{pair}]({address}) in MLflow{_how_to_open(tonight)}.")
    return "\n".join(lines)


def _since(tonight: Tonight, one: PointComparison) -> str:
    if one.origin is None:
        raise AssertionError("only regressions have an origin")
    good, since, commit = one.origin.good, one.origin.since, one.origin.commit
    is_new = since == tonight.night
    which = "tonight" if is_new else f"the night of {since}"
    told = f"Since {which} ({_commit(commit, is_dirty=is_new and tonight.is_dirty)})"
    if good is None:
        return f"{told}; all nights that were compared with were worse, too."
    told += f"; the night of {good.night} ({_commit(good.commit, is_dirty=good.is_dirty)}) was not."
    if not commit or not good.commit:
        return told
    if commit == good.commit:
        changed = tonight.is_dirty or good.is_dirty
        hint = "uncommitted changes, or " if changed else ""
        return (
            f"{told} The commit is the same: look at {hint}the machine (nodes, modules, drivers)."
        )
    return f"{told} What changed: `git log --oneline {good.commit[:_DIGITS]}..{commit[:_DIGITS]}`"


def _commit(commit: str, *, is_dirty: bool = False) -> str:
    if not commit:
        return "commit not known"
    return f"commit {commit[:_DIGITS]}" + (" with uncommitted changes" if is_dirty else "")


def _base(tracking_uri: str) -> str:
    return server_address(tracking_uri) or LOCAL


def _compare_address(tonight: Tonight, one: PointComparison) -> str:
    runs = quote(json.dumps([one.reference_run_id, one.tonight_run_id], separators=(",", ":")))
    experiments = quote(json.dumps([tonight.experiment_id]))
    base = _base(tonight.tracking_uri)
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"


def _how_to_open(tonight: Tonight) -> str:
    if server_address(tonight.tracking_uri):
        return ""
    return f" (start MLflow with `{opening_command(tonight.tracking_uri)}`)"


def _table(compared: Sequence[PointComparison], rule: Rule) -> str:
    if not compared:
        return ""
    head = ["point", "metric", "tonight", "median", "nights"]
    head += [f"change [{100 * rule.confidence:g} %]", "mark"]
    return markdown_table(head, [_row(one) for one in _ordered(compared)])


def _ordered(compared: Sequence[PointComparison]) -> list[PointComparison]:
    return sorted(compared, key=lambda one: _ORDER[one.result.verdict])


def _row(one: PointComparison) -> list[str]:
    result = one.result
    interval = ""
    if result.low is not None and result.high is not None:
        interval = f" [{change(result.low)}, {change(result.high)}]"
    mark = f"{result.verdict}: {result.reason}" if result.reason else str(result.verdict)
    return [
        one.label,
        one.metric,
        f"{sum(one.tonight) / len(one.tonight):.4g}",
        "" if one.reference is None else f"{one.reference:.4g}",
        str(result.num_nights),
        change(result.ratio) + interval,
        mark,
    ]


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return "> 99.9 %" if value > 0.999 else f"{100 * value:.1f} %"


def _failures(failed: Sequence[Repeat]) -> str:
    told = [f"- **{one.label}** {one.state}: {one.message or 'no reason given'}" for one in failed]
    return "## What went wrong\n\n" + _some(told) if told else ""


def _nights(tonight: Tonight, history: History, compared: Sequence[PointComparison]) -> str:
    dirty = ", with uncommitted changes" if tonight.is_dirty else ""
    told = [f"- Tonight: {tonight.directory}, {_commit(tonight.commit)}{dirty}"]
    if tonight.late:
        told.append(f"- {tonight.late}")
    used = {night for one in compared for night, _ in one.nights}
    if used:
        told.append(f"- Compared with: {_some_words([str(one) for one in sorted(used)[::-1]])}")
    if steps := [one for one in compared if one.level_since]:
        better = [f"{one.metric} of {one.label} since {one.level_since}" for one in steps]
        told.append(f"- Better, so that nights before are no reference: {_some_words(better)}")
    if tonight.missed:
        missed = [f"{one.night} ({one.why})" for one in tonight.missed]
        told.append(f"- Missed: {_some_words(missed)}")
    if history.unused:
        unused = [f"{one.night} ({one.why})" for one in history.unused]
        told.append(f"- Not used: {_some_words(unused)}")
    return "## Nights\n\n" + "\n".join(told)


def _some_words(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_LISTED} more" if len(words) > _MOST_LISTED else ""
    return ", ".join(words[:_MOST_LISTED]) + more


def _some(lines: Sequence[str]) -> str:
    more = [f"- and {len(lines) - _MOST_LISTED} more"] if len(lines) > _MOST_LISTED else []
    return "\n".join([*lines[:_MOST_LISTED], *more])


def _reading(compared: Sequence[PointComparison], rule: Rule) -> str:
    """Say how to read the marks, and how sure each is; beside the changes there is no room."""
    body = [
        [
            one.label,
            one.metric,
            "higher" if one.metric in HIGHER_IS_BETTER else "lower",
            _share(one.result.confidence),
            "" if one.result.noticeable is None else f"{100 * one.result.noticeable:.2g} %",
        ]
        for one in _ordered(compared)
    ]
    table = markdown_table(["point", "metric", "better", "confidence", "would notice"], body)
    note = (
        f"*Worse* and *better* are changes of {100 * rule.least_effect:g} % and more that the "
        "noise of nights does not explain, all rows taken into account (Holm); of nights without "
        f"any change, {100 * (1 - rule.confidence):.2g} % at most have one. The confidence of "
        "*same* is that of a change below that. *Would notice*: the smallest change that would "
        "have been marked. Nights on which a point was worse are no reference for it; a change "
        "that is meant to stay is accepted by the parameter `since`. An improvement becomes the "
        f"reference by itself, after {NEW_LEVEL_NIGHTS} nights."
    )
    return f"## How sure\n\n{table}\n\n{note}"
