"""What a study came to: a table, where its files are, and where to look further."""

import os
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import STYLES, and_more, duration
from flows.pointers import pointers
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.explaining import last_lines
from tasks.slurm.redaction import redact
from tasks.steps.flow_record import FlowRecord, read_flow_record
from tasks.tracking.history import RunHistory, read_history
from tasks.tracking.rows import Row, collect_rows, row_of
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tables import Column, exponent, number, percent, scaled
from tasks.tracking.training_rows import TrainingMeasures

_MOST_WARNINGS = 10
_LAST_LINES = 15
_LABEL_WIDTH, _LONGEST_WORD = 16, 26
"""Columns that labels have at least; those that a long word of one gets, so that it stays whole."""
_BETWEEN_COLUMNS = 3
_EDGES = 2
"""Columns beside a table, left and right."""
_LEAST_TELLING = (
    *("time", "round", "step", "rate, 95 %", "delay", "MFU", "|gradient|"),
    *("max", "predicted", "validation", "tokens/s"),
)
"""Columns that a narrow terminal does without, the first first."""
_UNMEASURED = {"predicted", "damaged"}
"""States of points of which no step is known."""


def print_summary(console: Console, directory: StudyDirectory) -> list[Row]:
    """Print how a study stands.

    Args:
        console: Where to.
        directory: The study's directory.

    Returns:
        The rows of the table.

    Raises:
        OSError: A file of the study cannot be read.
        DamagedFileError: The record of its flow is cut off, or of another version.
    """
    rows = collect_rows(directory.path)
    record = read_flow_record(directory.path)
    console.print(table_of(rows, console.width))
    for state, told in faults_of(rows):
        line = Text.assemble((state, STYLES[state]), f" {told}")
        console.print(line, soft_wrap=True)
    for told in standing_of(rows):
        console.print(Text(told), soft_wrap=True)
    for warning in warnings_of(rows, record):
        console.print(Text.assemble(("warning ", "yellow"), warning), soft_wrap=True)
    for label, text in pointers(directory, record, os.environ):
        console.print(
            Text.assemble((f"{label:<18}", "bold" if label else ""), text), soft_wrap=True
        )
    return rows


def faults_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Say why points have failed, or cannot be read, without secrets; one cause of several once.

    Args:
        rows: The points.

    Returns:
        State and words of each cause: ``16 of 16 (seed=0 and 15 more): no data``.
    """
    labels: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.state in {"failed", "damaged"}:
            labels.setdefault((row.state, redact(row.message)), []).append(row.label)
    told = []
    for (state, message), where in labels.items():
        several = f"{len(where)} of {len(rows)} ({and_more(where)})"
        told.append((state, f"{several if len(where) > 1 else where[0]}: {message}"))
    return told


def standing_of(rows: Sequence[Row]) -> list[str]:
    """Say which points were not computed here: predicted only, and why; reused, and from where.

    Args:
        rows: The points.

    Returns:
        Lines, one for each reason and each earlier study.
    """
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.predicted_only:
            told.setdefault(f"predicted only: {row.predicted_only}", []).append(row.label)
        if row.reused_from:
            told.setdefault(f"reused from {row.reused_from}", []).append(row.label)
    return [f"{len(labels)} of {len(rows)} {text}" for text, labels in told.items()]


def print_run(console: Console, directory: RunDirectory) -> None:
    """Print how the run of one grid point stands, and the end of its output, without secrets.

    Args:
        console: Where to.
        directory: The run directory.

    Raises:
        OSError: A file of the run cannot be read.
        DamagedFileError: A file of the run is cut off, or of another version.
    """
    history = read_history(directory)
    row = row_of(history)
    state = (row.state, STYLES[row.state])
    experiment = history.job.experiment
    steps = f"{row.rounds} of {experiment.num_steps} {experiment.unit}s"
    message = redact(row.message)
    console.print(Text.assemble((row.label, "bold"), "  ", state, f"  {steps}  {message}"))
    for name, series in sorted(history.metrics.items()):
        console.print(Text(f"  {name:<22} {series.last:.6g}"))
    told = [*row.warnings, *_refusals(history)]
    for warning in told:
        console.print(Text.assemble(("warning ", "yellow"), warning), soft_wrap=True)
    if directory.stdout.exists():
        console.print(Text(f"{os.path.relpath(directory.stdout)}, last lines:", "dim"))
        for line in last_lines(directory.stdout, _LAST_LINES):
            console.print(Text(f"  {line}"), soft_wrap=True)


def _refusals(history: RunHistory) -> list[str]:
    refused = history.result.refused if history.result else {}
    return [f"worker {worker}: {count} returns refused" for worker, count in refused.items()]


def table_of(rows: Sequence[Row], width: int) -> Table:
    """Make the table of a study: a row a point, a column for each measure that some point has.

    Args:
        rows: The points.
        width: Columns of the terminal; where they are few, the least telling measures are left out.

    Returns:
        The table.
    """
    is_over = all(row.state == "finished" for row in rows)
    unit = "step" if any(row.training for row in rows) else "round"
    columns: list[Column] = [
        ("state", lambda row: "" if is_over else row.state),
        (unit, lambda row: "" if is_over or row.state in _UNMEASURED else str(row.rounds)),
        ("loss", lambda row: number(row.loss, 4)),
        *_training_columns(),
        ("accuracy", lambda row: "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %"),
        ("|gradient|", lambda row: number(row.grad_norm, 3)),
        ("rate, 95 %", lambda row: exponent(row.rate, row.rate_low, row.rate_high)),
        ("delay", lambda row: number(row.mean_delay, 3)),
        ("max", lambda row: number(row.max_delay, 4)),
        ("time", lambda row: "" if row.wall_s is None else duration(row.wall_s)),
    ]
    texts = {name: [text(row) for row in rows] for name, text in columns}
    texts = {name: cells for name, cells in texts.items() if any(cells)}
    label_width = _label_width(rows)
    for name in _LEAST_TELLING:
        if _EDGES + label_width + sum(map(_width, texts.items())) > width:
            texts.pop(name, None)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    # The ends of labels tell points apart; Rich counts padding at the edge that it leaves out.
    table.add_column("run", min_width=label_width - 1, overflow="fold")
    for name in texts:
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for row, *cells in zip(rows, *texts.values(), strict=True):
        style = STYLES[row.state] if row.state in {"failed", "interrupted", "damaged"} else ""
        table.add_row(row.label, *cells, style=style)
    return table


def _training_columns() -> list[Column]:
    """Return the columns of what only a training on ranks measures."""

    def column(name: str, text: Callable[[TrainingMeasures], str]) -> Column:
        return name, lambda row: text(row.training) if row.training else ""

    return [
        column("validation", lambda training: number(training.validation_loss, 4)),
        column("tokens/s", lambda training: scaled(training.tokens_per_s)),
        column("TFLOPS", lambda training: number(training.tflops, 3)),
        (
            "predicted",
            lambda row: "" if row.prediction is None else number(row.prediction.tflops, 3),
        ),
        column("MFU", lambda training: percent(training.mfu)),
    ]


def _label_width(rows: Sequence[Row]) -> int:
    """Return how many columns the labels need: so many that words are folded between them."""
    words = [len(word) for row in rows for word in row.label.split()]
    return min(max([_LABEL_WIDTH, *words]), _LONGEST_WORD)


def _width(column: tuple[str, list[str]]) -> int:
    name, cells = column
    return max(map(len, [name, *cells])) + _BETWEEN_COLUMNS


def warnings_of(rows: Sequence[Row], record: FlowRecord | None) -> list[str]:
    """Collect the warnings of all points, each once, and what is missing in MLflow.

    Args:
        rows: The points.
        record: Of the newest flow run.

    Returns:
        The warnings; of many, the first.
    """
    labels: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            labels.setdefault(warning, []).append(row.label)
    told = [f"{warning} ({and_more(where)})" for warning, where in labels.items()]
    if len(told) > _MOST_WARNINGS:
        told = [*told[:_MOST_WARNINGS], f"{len(told) - _MOST_WARNINGS} more, see the report"]
    if record is not None and record.tracking_error:
        told.append(
            f"MLflow has not got everything: {record.tracking_error}. The runs are complete on "
            "disk; watershed resume sends the rest"
        )
    return told
