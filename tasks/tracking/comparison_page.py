"""A comparison as one HTML file that needs no network: its tables, and curves to look around in."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.atomic_files import write_atomically
from tasks.tracking.comparison import Case
from tasks.tracking.comparison_curves import CLOCKS, CURVES
from tasks.tracking.comparison_tables import Comparison, Table, letters
from tasks.tracking.figures import OKABE_ITO
from tasks.tracking.history import RunHistory
from tasks.tracking.scaling_page import PAGE_HEAD

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]  # it has none

_STYLE = """<style>
table { border-collapse: collapse; margin: 0.5em 0; }
th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left; vertical-align: top; }
th { background: #f3f3f3; } td { font-variant-numeric: tabular-nums; }
.better { color: #006b4a; font-weight: bold; } .worse { color: #a83800; font-weight: bold; }
.note { color: #555; max-width: 60em; }
</style>
"""
_ABOVE = 2
"""Tables above the curves: what is compared, and what differs in the configurations."""
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as a page.

    Args:
        comparison: What there is to say.
        path: The HTML file, about 5 MB with curves.

    Raises:
        OSError: It cannot be written.
    """
    names = [subject.name for subject in comparison.subjects]
    title = " against ".join([names[0], ", ".join(names[1:])])
    parts = [PAGE_HEAD.format(title=escape(title), description=_colours(names)), _STYLE]
    parts += [f"<p>{escape(note)}</p>" for note in comparison.notes]
    first = comparison.tables[:_ABOVE]
    parts += map(_table, first)
    has_script = False
    for figure in _figures(comparison):
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not has_script))
        has_script = True
    parts += map(_table, comparison.tables[len(first) :])
    write_atomically(path, "\n".join([*parts, "</body></html>\n"]).encode())


def _colours(names: Sequence[str]) -> str:
    """Name the subjects in the colours of their curves."""
    return ", ".join(
        f'<b style="color: {OKABE_ITO[number % len(OKABE_ITO)]}">{letter}: {escape(name)}</b>'
        for number, (letter, name) in enumerate(zip(letters(len(names)), names, strict=True))
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    rows = "\n".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in table.body)
    note = escape(table.note).replace("*", "")
    return (
        f"<h2>{escape(table.title)}</h2>\n<table><tr>{head}</tr>\n{rows}</table>\n"
        f'<p class="note">{note}</p>'
    )


def _cell(text: str) -> str:
    marked = f' class="{text}"' if text in {"better", "worse"} else ""
    return f"<td{marked}>{escape(text)}</td>"


def _figures(comparison: Comparison) -> Iterator["Figure"]:
    """Draw a figure for each metric; buttons choose what it is drawn over."""
    from plotly.graph_objects import Figure, Scatter  # noqa: PLC0415  1 s

    unit = comparison.subjects[0].unit
    names = [subject.name for subject in comparison.subjects]
    short = dict(zip(names, letters(len(names)), strict=True))
    for metric in CURVES:
        drawn = [
            (number, name, case, run)
            for number, case in enumerate(comparison.cases)
            for name, runs in case.members.items()
            for run in runs
            if len(run.series(metric)) > 1
        ]
        if len({name for _, name, _, _ in drawn}) < 2:
            continue
        seen: set[tuple[str, str]] = set()
        figure = Figure()
        for number, name, case, run in drawn:
            series = run.series(metric)
            figure.add_trace(
                Scatter(
                    x=series.rounds,
                    y=series.values,
                    mode="lines",
                    name=_trace_name(short[name], case),
                    legendgroup=f"{name}/{number}",
                    showlegend=(name, case.label) not in seen,
                    hovertext=f"seed {run.job.experiment.seed}",
                    line={
                        "color": OKABE_ITO[names.index(name) % len(OKABE_ITO)],
                        "dash": _DASHES[number % len(_DASHES)],
                        "width": 1.5,
                    },
                )
            )
            seen.add((name, case.label))
        buttons = list(_buttons([run for *_, run in drawn], metric, unit))
        figure.update_layout(
            title=escape(str(metric)),
            height=480,
            template="plotly_white",
            xaxis_title=unit,
            updatemenus=[
                {"buttons": buttons, "type": "buttons", "direction": "right", "x": 1, "xanchor":
                 "right", "y": 1.16}
            ],
        )  # fmt: skip
        yield figure


def _trace_name(name: str, case: Case) -> str:
    return escape(f"{name}: {case.label}" if case.label else name)


def _buttons(runs: Sequence[RunHistory], metric: str, unit: str) -> Iterator[dict[str, object]]:
    """Offer the clocks that all the runs have."""
    for words, clock in CLOCKS.items():
        label = unit if clock is None else words
        series = [
            run.series(metric) if clock is None else run.against(clock, metric) for run in runs
        ]
        if all(len(one) > 1 for one in series):
            data = {
                "x": [one.rounds.tolist() for one in series],
                "y": [one.values.tolist() for one in series],
            }
            yield {"label": label, "method": "update", "args": [data, {"xaxis.title.text": label}]}
