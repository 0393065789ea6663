"""The tables of a report that have a row a run: what varies and came out first, the rest behind.

Prefect shows a report beside a panel, and MLflow beside a list of details: in a window of 1280
pixels there is room for six or seven columns. What is alike in all runs is a line instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.tracking.axes import short_name
from tasks.tracking.rows import Row
from tasks.tracking.tables import Column, exponent, markdown_table, number, percent, seconds
from tasks.tracking.training_report import (
    outcome_columns,
    setting_columns,
    speed_columns,
    traffic_columns,
)

_STATE: Column = ("state", lambda row: row.state)
_OUTCOMES: list[Column] = [
    ("training loss", lambda row: number(row.loss, 4)),
    *outcome_columns(),
    ("test accuracy", lambda row: percent(row.accuracy)),
    ("gradient norm", lambda row: "" if row.training else _gradient_norm(row)),
    ("rate b", lambda row: exponent(row.rate, row.rate_low, row.rate_high)),
    ("wall time", lambda row: _wall_time(row) if row.training else ""),
]
_DELAYS: list[Column] = [
    ("mean delay", lambda row: number(row.mean_delay, 3)),
    ("max delay", lambda row: number(row.max_delay, 4)),
    ("refused", lambda row: str(row.num_refused or "")),
    ("dropped", lambda row: str(row.num_dropped or "")),
    ("virtual time", lambda row: seconds(row.virtual_s)),
    ("wall time", lambda row: "" if row.training else _wall_time(row)),
]
_SPEED: list[Column] = [
    ("gradient norm", lambda row: _gradient_norm(row) if row.training else ""),
    *speed_columns(),
]


@dataclass(frozen=True)
class RunTables:
    """The runs of a study, in Markdown; empty where there is nothing to tell.

    Attributes:
        outcomes: A table of what varies and what came out.
        alike: A line of what does not differ between the runs.
        further: Tables of the other measures.
    """

    outcomes: str
    alike: str
    further: str


def run_tables(rows: Sequence[Row], unit: str) -> RunTables:
    """Lay out the runs of a study.

    Args:
        rows: Those that have run or run now.
        unit: Of the x-axis: round or train step.

    Returns:
        The tables; what no run has measured is in none.
    """
    if not rows:
        return RunTables("", "", "")
    axes = _varying(rows)
    names: list[Column] = [(short_name(axis), _coordinate(axis)) for axis in axes]
    names = names or [("run", lambda row: row.label)]
    steps: list[Column] = [(f"{unit}s", lambda row: str(row.rounds))]
    groups = [_DELAYS, [*setting_columns(axes), *_SPEED], traffic_columns(rows)]
    outcomes = [
        *names,
        *_differing(steps, rows),
        *([] if all(row.state == "finished" for row in rows) else [_STATE]),
        *(one for one in _OUTCOMES if _values(one, rows) != {""}),
    ]
    further = [[*names, *rest] for group in groups if (rest := _differing(group, rows))]
    return RunTables(
        outcomes=_table(rows, outcomes),
        alike=_alike([*steps, *(one for group in groups for one in group)], rows),
        further="\n\n".join(
            ["## Further measures", *(_table(rows, columns) for columns in further)]
            if further
            else []
        ),
    )


def _varying(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.coordinates))
    return [name for name in names if len({row.coordinates.get(name) for row in rows}) > 1]


def _coordinate(axis: str) -> Callable[[Row], str]:
    return lambda row: row.coordinates.get(axis, "")


def _gradient_norm(row: Row) -> str:
    return number(row.grad_norm, 3)


def _wall_time(row: Row) -> str:
    return seconds(row.wall_s)


def _values(column: Column, rows: Sequence[Row]) -> set[str]:
    return {column[1](row) for row in rows}


def _differing(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    return [column for column in columns if len(_values(column, rows)) > 1]


def _alike(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    told = []
    for name, text in columns:
        values = _values((name, text), rows)
        if len(values) == 1 and values != {""}:
            told.append(f"{name} {values.pop()}")
    head = "Alike in all runs" if len(rows) > 1 else "Further"
    return f"{head}: {', '.join(told)}." if told else ""


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    return markdown_table(
        [name for name, _ in columns], [[text(row) for _, text in columns] for row in rows]
    )
