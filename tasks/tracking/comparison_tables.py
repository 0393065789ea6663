"""What a comparison says, as tables of texts: the terminal and the HTML report show the same."""

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.tracking.comparison import Case, Subject, configuration_differences, match
from tasks.tracking.comparison_curves import curve_rows
from tasks.tracking.comparison_statistics import CONFIDENCE, Difference, Spread, differences
from tasks.tracking.history import GOOD
from tasks.tracking.nightly_statistics import Verdict

_MOST_LABELS = 5
_NOTE = (
    f"*better* and *worse* are beyond chance at {100 * CONFIDENCE:.0f} % for all tested marks of "
    "this table together (Holm): paired by seed where both sides ran the same seeds, else Welch's "
    "test; or no seed changes either side, which is not tested. *cannot tell* says that seeds "
    "differ by as much, or do not show what chance does; it does not say that there is no "
    "difference. Seeds tell nothing of another machine or another day."
)


@dataclass(frozen=True)
class Table:
    """A table with what is to be said of it.

    Attributes:
        title: Above it.
        head: Column heads.
        body: Rows of as many texts.
        note: Below it; may be empty.
    """

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """All that a comparison says.

    Attributes:
        subjects: What was compared.
        cases: What of them has counterparts.
        tables: The tables; those without rows are left out.
        notes: What else the user should know.
    """

    subjects: tuple[Subject, ...]
    cases: tuple[Case, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def compare(subjects: Sequence[Subject]) -> Comparison:
    """Compare subjects; differences are those from the first.

    Args:
        subjects: At least two, of different names.

    Returns:
        What there is to say.

    Raises:
        OSError: A file of a run cannot be read.
    """
    cases, alone = match(subjects)
    tables = [_standings(subjects), _configurations(subjects), _results(cases, subjects)]
    tables += [_curves(cases, subjects), _costs(subjects)]
    notes = [
        f"only in {name}: {', '.join(labels[:_MOST_LABELS])}"
        + (f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else "")
        for name, labels in alone.items()
    ]
    for name, count in _unfinished(subjects).items():
        notes.append(f"{name}: {count} not finished; the results are those of the last step so far")
    if not cases:
        notes.append("no point of one stands at the same place of the grid as one of another")
    shown = tuple(table for table in tables if table.body)
    return Comparison(tuple(subjects), tuple(cases), shown, tuple(notes))


def _unfinished(subjects: Sequence[Subject]) -> dict[str, int]:
    """Count the runs that have begun and not finished, of the subjects that have such."""
    counts = {
        one.name: sum(bool(run.metrics) and run.state not in GOOD for run in one.runs)
        for one in subjects
    }
    return {name: count for name, count in counts.items() if count}


def _standings(subjects: Sequence[Subject]) -> Table:
    body = [
        (letter, one.name, one.what(), one.standing(), one.machines() or "-")
        for letter, one in zip(letters(len(subjects)), subjects, strict=True)
    ]
    return Table("What is compared", ("", "run", "points", "state", "ran on"), tuple(body))


def letters(count: int) -> list[str]:
    """Return short names of so many subjects: A, B, ..., Z, then numbers."""
    alphabet = list(string.ascii_uppercase[:count])
    return alphabet + [str(number) for number in range(len(alphabet) + 1, count + 1)]


def _configurations(subjects: Sequence[Subject]) -> Table:
    found = configuration_differences(subjects)
    body = tuple((path, *texts) for path, texts in found.items())
    note = "Of all their points; what is the same is left out."
    return Table("Configurations differ in", ("", *letters(len(subjects))), body, note)


def _results(cases: Sequence[Case], subjects: Sequence[Subject]) -> Table:
    names = letters(len(subjects))
    short = {one.name: letter for one, letter in zip(subjects, names, strict=True)}
    sides = [
        (case, one.name, other.name)
        for case in cases
        for one, other in _against_first(case, subjects)
    ]
    found = differences([(case.members[a], case.members[b]) for case, a, b in sides])
    is_pair = len(subjects) == len(("A", "B"))
    body = [
        _result_line(case, "" if is_pair else f"{short[first]}, {short[second]}", one)
        for (case, first, second), all_of_pair in zip(sides, found, strict=True)
        for one in all_of_pair
        if one.verdict != Verdict.SAME
    ]
    same: dict[str, int] = {}
    for one in itertools.chain.from_iterable(found):
        same[one.measure] = same.get(one.measure, 0) + (one.verdict == Verdict.SAME)
    equal = ", ".join(f"{name} ({count} of {len(sides)})" for name, count in same.items() if count)
    several = () if is_pair else ("of",)
    case_head = ("case",) if any(case.label for case in cases) else ()
    head = (
        *case_head,
        "result",
        *several,
        *(("A", "B") if is_pair else ("first", "second")),
        "difference",
        "relative",
        "",
        "why",
    )
    told = f"Equal to the last digit, and left out: {equal}. " if equal else ""
    return Table("Results", head, _once(body) if case_head else tuple(body), told + _NOTE)


def _once(body: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Write what stands in the first column once for the lines that share it."""
    firsts = ["", *(line[0] for line in body)]
    return tuple(
        ("" if line[0] == before else line[0], *line[1:])
        for line, before in zip(body, firsts, strict=False)
    )


def _against_first(case: Case, subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    present = [one for one in subjects if one.name in case.members]
    return [(present[0], other) for other in present[1:]]


def _result_line(case: Case, second: str, one: Difference) -> tuple[str, ...]:
    relative = "" if one.relative is None else f"{100 * one.relative:+.2f} %"
    return (
        *((case.label,) if case.label else ()),
        one.measure,
        *((second,) if second else ()),
        _spread(one.first),
        _spread(one.second),
        f"{one.absolute:+.4g}",
        relative,
        str(one.verdict),
        one.reason,
    )


def _spread(spread: Spread) -> str:
    """Mean, and of several seeds the standard deviation and their number."""
    if spread.deviation is None:
        return f"{spread.mean:.5g}"
    return f"{spread.mean:.5g} ± {spread.deviation:.2g} ({spread.count})"


def _curves(cases: Sequence[Case], subjects: Sequence[Subject]) -> Table:
    unit = subjects[0].unit
    case_head = ("case",) if any(case.label for case in cases) else ()
    body = [
        (
            *((case.label,) if case.label else ()),
            str(row.metric),
            str(row.step),
            *(
                f"{row.sparks[one.name]} {row.values[one.name]:.5g}"
                if one.name in row.values
                else "-"
                for one in subjects
            ),
        )
        for case in cases
        for row in curve_rows(case)
    ]
    note = "Mean over seeds, up to the last step at which all were measured; all on one scale."
    head = (*case_head, "curve", f"at {unit}", *letters(len(subjects)))
    shown = _once(body) if case_head else tuple(body)
    return Table("Curves at equal steps", head, shown, note)


def _costs(subjects: Sequence[Subject]) -> Table:
    found = [cost.metrics() if (cost := one.cost()) else {} for one in subjects]
    names = dict.fromkeys(name for one in found for name in one)
    body = []
    for name in names:
        values = [one.get(name) for one in found]
        texts = ["-" if value is None else f"{value:.4g}" for value in values]
        body.append((name.removeprefix("cost/"), *texts, *_changes(values)))
    head = ("", *letters(len(subjects)), *(f"{one} - A" for one in letters(len(subjects))[1:]))
    return Table("Costs, as Slurm accounts for them", head, tuple(body), "Sums over all attempts.")


def _changes(values: Sequence[float | None]) -> Iterator[str]:
    """Write the differences from the first, empty where one is not known."""
    for value in values[1:]:
        is_unknown = value is None or values[0] is None
        yield "" if is_unknown else f"{(value or 0.0) - (values[0] or 0.0):+.4g}"
