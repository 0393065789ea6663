"""Figure of a study's curves. Matplotlib is imported by the first figure; no window is opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.runtime.metrics import Metric
from tasks.tracking.axes import SEED_AXES, told
from tasks.tracking.history import RunHistory, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LineStyle = Literal["-"] | tuple[float, Sequence[float]]
_LINE_STYLES: tuple[_LineStyle, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
_MAX_COLUMNS = 8
_MOST_NOISY = 200
_MANY = 8  # more curves in one panel are drawn thinner
STYLE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True)
class Panel:
    """One kind of panel: a metric against steps (of the journal), or against another clock.

    Attributes:
        metric: What is drawn.
        clock: Over which other metric; None for steps.
        title: Of the panel.
        x_label: Of its x-axis.
        is_noisy: Each value is of few samples: long series are drawn as means of neighbours.
    """

    metric: Metric
    clock: Metric | None
    title: str
    x_label: str
    is_noisy: bool = False

    @property
    def is_power_law(self) -> bool:
        """Whether it is drawn in log-log, where a power law is a straight line."""
        return self.metric == Metric.TRAIN_GRAD_SQ_NORM


FEDERATED_PANELS = (
    Panel(Metric.TRAIN_LOSS, None, "training loss", "round"),
    Panel(Metric.TEST_ACCURACY, None, "test accuracy", "round"),
    Panel(Metric.TRAIN_GRAD_SQ_NORM, None, "squared gradient norm", "round"),
    Panel(Metric.TRAIN_LOSS, Metric.VIRTUAL_S, "training loss", "virtual time (s)"),
)


@dataclass(frozen=True)
class _Axes:
    """What distinguishes the curves.

    Attributes:
        colour: Grid axis shown by colour; None if nothing varies.
        column: Grid axis with a column of panels for each value; None for a single block.
        style: Grid axes shown, together, by line style.
    """

    colour: str | None
    column: str | None
    style: tuple[str, ...]


def draw_curves(histories: Sequence[RunHistory], panels: Sequence[Panel], path: Path) -> bool:
    """Draw the curves of all runs, a panel for each measure that some run has.

    Colour is the algorithm, or else the grid's first axis; a second axis of up to 8 values has its
    own columns of panels; what is left is told by line style. Runs that differ in their seed only
    are one curve, their mean, with a band from the smallest to the largest.

    Args:
        histories: The runs of one study.
        panels: What to draw.
        path: The PNG file.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: The file cannot be written.
    """
    drawn = [history for history in histories if len(history.series(Metric.TRAIN_LOSS))]
    panels = [panel for panel in panels if any(len(_series(h, panel)) > 1 for h in drawn)]
    if not panels:
        return False
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    values = _axis_values(drawn)
    axes = _assign(values)
    with matplotlib.rc_context(fname=STYLE):
        if axes.column is None:
            figure = Figure(figsize=(8.4, 3.1 * -(-len(panels) // 2) + 0.5), layout="constrained")
            grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
            for spare in grid.flat[len(panels) :]:
                spare.set_axis_off()
            for panel, place in zip(panels, grid.flat, strict=False):
                _draw_panel(place, panel, drawn, axes, values)
                _scale(place, panel, drawn)
        else:
            columns = values[axes.column]
            figure = Figure(
                figsize=(2.9 * len(columns) + 0.6, 2.2 * len(panels) + 0.9), layout="constrained"
            )
            grid = figure.subplots(
                len(panels), len(columns), squeeze=False, sharex="row", sharey="row"
            )
            for row, panel in zip(grid, panels, strict=True):
                for place, column in zip(row, columns, strict=True):
                    here = [h for h in drawn if h.job.coordinates[axes.column] == column]
                    _draw_panel(place, panel, here, axes, values)
                    _scale(place, panel, drawn)
                    place.set_title("")
                row[0].set_ylabel(panel.title)
            for place, column in zip(grid[0], columns, strict=True):
                place.set_title(told(axes.column, column), fontweight="bold")
        figure.align_ylabels()
        _add_legend(figure, axes, values)
        figure.savefig(path)
    return True


def _axis_values(histories: Sequence[RunHistory]) -> dict[str, list[str]]:
    """Grid axes that vary, seeds apart, each with its labels in the order of the grid."""
    values: dict[str, list[str]] = {}
    for history in histories:
        for name, label in history.job.coordinates.items():
            labels = values.setdefault(name, [])
            if label not in labels:
                labels.append(label)
    return {
        name: labels for name, labels in values.items() if len(labels) > 1 and name not in SEED_AXES
    }


def _assign(values: Mapping[str, Sequence[str]]) -> _Axes:
    names = list(values)
    colour = next((n for n in names if n in {"algorithm", "algorithm.name"}), None)
    colour = colour or next(iter(names), None)
    rest = [name for name in names if name != colour]
    narrow = [name for name in rest if len(values[name]) <= _MAX_COLUMNS]
    column = max(narrow, key=lambda name: len(values[name]), default=None)
    return _Axes(colour, column, tuple(name for name in rest if name != column))


def _draw_panel(
    place: "Axes",
    panel: Panel,
    histories: Sequence[RunHistory],
    axes: _Axes,
    values: Mapping[str, Sequence[str]],
) -> None:
    groups: dict[tuple[str, tuple[str, ...]], list[Series]] = {}
    for history in histories:
        series = _series(history, panel)
        if len(series):
            where = history.job.coordinates
            key = (where.get(axes.colour or "", ""), tuple(where[name] for name in axes.style))
            groups.setdefault(key, []).append(series)
    colours, styles = _colours(axes, values), _styles(axes, values)
    width = 1.4 if len(groups) <= _MANY else 1.0
    for (colour, style), members in groups.items():
        middle, low, high = _over_seeds(members)
        place.plot(middle.rounds, middle.values, color=colours[colour], ls=styles[style], lw=width)
        if len(members) > 1:
            place.fill_between(middle.rounds, low, high, color=colours[colour], alpha=0.15, lw=0)
    place.set_xlabel(panel.x_label)
    place.set_title(panel.title)


def _series(history: RunHistory, panel: Panel) -> Series:
    series = history.series(panel.metric)
    if panel.clock:
        series = history.against(panel.clock, panel.metric)
    if panel.is_noisy:
        series = _smoothed(series)
    if panel.clock:
        return series
    seen = series.rounds > 0 if panel.is_power_law else series.rounds >= 0
    return Series(series.rounds[seen], series.values[seen])


def _smoothed(series: Series) -> Series:
    """Mean over neighbours, so that at most so many points remain."""
    width = -(-len(series) // _MOST_NOISY)
    if width <= 1:
        return series
    starts = np.arange(0, len(series), width)
    sizes = np.diff(starts, append=len(series))
    return Series(
        np.add.reduceat(series.rounds, starts) / sizes,
        np.add.reduceat(series.values, starts) / sizes,
    )


def _over_seeds(members: Sequence[Series]) -> tuple[Series, np.ndarray, np.ndarray]:
    """Mean, smallest and largest over runs, where the shortest of them reaches."""
    longest = max(members, key=len)
    at = longest.rounds[longest.rounds <= min(one.rounds[-1] for one in members)]
    stacked = np.stack([np.interp(at, one.rounds, one.values) for one in members])
    return Series(at, stacked.mean(axis=0)), stacked.min(axis=0), stacked.max(axis=0)


def _scale(place: "Axes", panel: Panel, histories: Sequence[RunHistory]) -> None:
    """Choose the scales; the same for all panels of a kind, so that they can be compared."""
    if panel.metric == Metric.TEST_ACCURACY:
        place.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        return
    if panel.metric == Metric.TOKENS_PER_S:  # ratios are what counts
        place.set_ylim(bottom=0)
        return
    shown = [_series(history, panel) for history in histories]
    values = np.concatenate([series.values for series in shown])
    if panel.is_power_law:
        place.set_xscale("log")
        _label_log(place.xaxis, np.concatenate([series.rounds for series in shown]))
    if panel.is_power_law or (values.min() > 0 and values.max() > 10 * values.min()):
        place.set_yscale("log")
        _label_log(place.yaxis, values)


def _label_log(axis: "Axis", values: np.ndarray) -> None:
    """Label 0.2, 0.5, 1 on a logarithmic axis of few decades, where 2 x 10^-1 is hard to read."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    if values.min() > 0.01 * values.max():
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")


def _colours(axes: _Axes, values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    labels = values[axes.colour] if axes.colour else [""]
    if len(labels) > len(OKABE_ITO) or (len(labels) > 2 and all(map(_is_number, labels))):
        from matplotlib import colormaps  # noqa: PLC0415
        from matplotlib.colors import to_hex  # noqa: PLC0415

        shades = colormaps["viridis"](np.linspace(0.0, 0.88, len(labels)))
        return {label: to_hex(shade) for label, shade in zip(labels, shades, strict=True)}
    return dict(zip(labels, OKABE_ITO, strict=False))


def _styles(axes: _Axes, values: Mapping[str, Sequence[str]]) -> dict[tuple[str, ...], _LineStyle]:
    combinations: list[tuple[str, ...]] = [()]
    for name in axes.style:
        combinations = [(*before, label) for before in combinations for label in values[name]]
    return {
        labels: _LINE_STYLES[number % len(_LINE_STYLES)]
        for number, labels in enumerate(combinations)
    }


def _add_legend(figure: "Figure", axes: _Axes, values: Mapping[str, Sequence[str]]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415

    if axes.colour is None:
        return
    handles = [
        Line2D([], [], color=colour, label=told(axes.colour, label))
        for label, colour in _colours(axes, values).items()
    ]
    if axes.style:
        handles += [
            Line2D(
                [],
                [],
                color="#555555",
                linestyle=style,
                label=", ".join(map(told, axes.style, labels)),
            )
            for labels, style in _styles(axes, values).items()
        ]
    columns = min(len(handles), 3 if axes.style else 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
