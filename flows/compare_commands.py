"""The command that compares runs: ``watershed compare``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from flows.arguments import EXIT_CONFIGURATION, EXIT_FAILED, RunsDir, give_up
from flows.console import make_console
from flows.finding_points import find_runs
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.comparison import Subject, read_subject, unique_names
from tasks.tracking.comparison_page import write_comparison
from tasks.tracking.comparison_tables import Comparison, Table
from tasks.tracking.comparison_tables import compare as compare_subjects

COMPARE_EXAMPLE = "Example:  watershed compare digits/0 digits/3 --html difference.html"
_STYLES = {"better": "green", "worse": "bold red", "cannot tell": "dim", "same": "dim"}
_FILE_WIDTH = 200
_LONGEST_WORD, _LEAST_WIDTH = 20, 10
"""Words up to which a column keeps them whole, and the width that one of longer words has then."""
_LEAST = 2


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="What to compare: a run's directory or its name, a study's name for its newest "
            "run, or RUN/POINT for one point of it: its number, label or directory.",
        ),
    ],
    runs_dir: RunsDir = Path("runs"),
    *,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The HTML report. Default: comparison-....html in the runs' directory.",
        ),
    ] = None,
) -> None:
    """Compare runs: their configurations, results, curves and costs; from their directories alone.

    Differences are those from the first. Exit codes: 0 compared, 1 a file cannot be read or
    written, 2 a wrong name.
    """
    if len(names) < _LEAST:
        give_up(f"{names[0]} alone cannot be compared; name two or more", EXIT_CONFIGURATION)
    comparison = _compared(_found(names, runs_dir))
    print_comparison(make_console(_FILE_WIDTH), comparison)
    path = html or runs_dir / _file_name([one.name for one in comparison.subjects])
    try:
        write_comparison(comparison, path)
    except OSError as error:
        give_up(f"cannot write {path}: {error.strerror or error}", EXIT_FAILED)
    typer.echo(f"Report: {path}")
    if left_out := [fault for one in comparison.subjects for fault in one.damaged]:
        give_up("\n".join(f"left out: {fault}" for fault in left_out), EXIT_FAILED)


def _found(names: Sequence[str], runs_dir: Path) -> list[tuple[str, list[RunDirectory]]]:
    """Find all that was named; say of all that is not there, at once, what there is."""
    found, missing = [], []
    for name in names:
        try:
            found.append(find_runs(name, runs_dir))
        except LookupError as error:
            missing.append(str(error.args[0]))
    if missing:
        give_up("\n".join(dict.fromkeys(missing)), EXIT_CONFIGURATION)
    return found


def _compared(found: Sequence[tuple[str, list[RunDirectory]]]) -> Comparison:
    try:
        subjects: list[Subject] = [
            read_subject(name, runs)
            for name, (_, runs) in zip(unique_names([n for n, _ in found]), found, strict=True)
        ]
        return compare_subjects(subjects)
    except DamagedFileError as fault:
        give_up(str(fault), EXIT_FAILED)
    except OSError as error:
        give_up(f"cannot read {error.filename}: {error.strerror}", EXIT_FAILED)
    except ValueError as error:
        give_up(f"{error}; see watershed show", EXIT_CONFIGURATION)


def _file_name(names: Sequence[str]) -> str:
    return f"comparison-{'-'.join(name.replace('/', '-') for name in names)[:150]}.html"


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the tables of a comparison.

    Args:
        console: Where to.
        comparison: What there is to say.
    """
    for table in comparison.tables:
        console.print(Text(table.title, "bold"))
        shown, told = _without_repetition(table, console.width)
        console.print(_shown(shown, console.width))
        if told:
            console.print(Text(f"In all rows: {told}"), soft_wrap=True)
        if table.note:
            console.print(Text(table.note.replace("*", ""), "dim"), soft_wrap=True)
            console.print()
    for note in comparison.notes:
        console.print(Text(note), soft_wrap=True)


def _without_repetition(table: Table, width: int) -> tuple[Table, str]:
    """Take out columns that say the same words in all rows, where there is no room for them.

    Args:
        table: The table.
        width: Columns of the terminal.

    Returns:
        What is left of it, and what those columns say.
    """
    columns = list(zip(table.head, zip(*table.body, strict=True), strict=True))
    longest = [max(map(len, [name, *cells])) for name, cells in columns]
    if len(table.body) == 1 or _drawn(longest) <= width:
        return table, ""
    said = [" " in cells[0] and len(set(cells)) == 1 for _, cells in columns[1:]]
    said = [False, *said]  # the first says what a row is of
    told = [
        f"{name}: {cells[0]}" if name else cells[0]
        for (name, cells), is_said in zip(columns, said, strict=True)
        if is_said
    ]
    kept = [column for column, is_said in zip(columns, said, strict=True) if not is_said]
    head = tuple(name for name, _ in kept)
    body = tuple(zip(*(cells for _, cells in kept), strict=True))
    return replace(table, head=head, body=body), "; ".join(told)


def _drawn(widths: Sequence[int]) -> int:
    """Return how wide a table is, with what Rich draws between its columns and beside them."""
    return sum(widths) + 3 * (len(widths) - 1) + 2


def _shown(table: Table, width: int) -> RichTable:
    """Draw a table; the words in it stay whole as far as that fits."""
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    widths = _widths(list(zip(table.head, *table.body, strict=True)), width)
    for index, name in enumerate(table.head):
        shown.add_column(Text(name), overflow="fold", width=widths[index] if widths else None)
    for line in table.body:
        shown.add_row(*(Text(text, _STYLES.get(text, "")) for text in line))
    return shown


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Choose the widths of columns, so that lines are broken between words; none if that is vain.

    Args:
        columns: The texts of each.
        width: Columns of the terminal.
    """
    words = [
        max((len(word) for text in one for word in text.split()), default=1) for one in columns
    ]
    least = [word if word <= _LONGEST_WORD else _LEAST_WIDTH for word in words]
    widths = [max(2, *map(len, one)) for one in columns]
    if _drawn(least) > width:
        return []
    while _drawn(widths) > width:
        slack = [has - needs for has, needs in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return widths
