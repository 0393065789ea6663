"""The command that compares runs: ``watershed compare``."""

from collections.abc import Sequence
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
        console.print(_shown(table))
        if table.note:
            console.print(Text(table.note.replace("*", ""), "dim"), soft_wrap=True)
            console.print()
    for note in comparison.notes:
        console.print(Text(note), soft_wrap=True)


def _shown(table: Table) -> RichTable:
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    for name in table.head:
        shown.add_column(Text(name), overflow="fold")
    for line in table.body:
        shown.add_row(*(Text(text, _STYLES.get(text, "")) for text in line))
    return shown
