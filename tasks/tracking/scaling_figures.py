"""Figures of scaling studies: speed and efficiency over sizes, and where the time goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.scaling_points import Published
from tasks.tracking.figures import OKABE_ITO, STYLE
from tasks.tracking.scaling_rows import (
    ScalingPoint,
    efficiencies,
    measured_tflops,
    predicted_tflops,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAUSE_COLOURS = {
    "compute": "#9a9a9a",
    "recompute": "#7a7a7a",
    "quantize": "#b9a16b",
    "interference": "#d9c89a",
    "sync": "#CC79A7",
    "refresh": "#E69F00",
    "optimizer": "#cccccc",
    "other": "#ececec",
}
"""Work is grey; what a better partition can save has colours."""
WAITING_COLOURS = ("#009E73", "#56B4E9", "#0072B2", "#D55E00")
"""Of levels, from the innermost outwards."""
MARKERS = "os^Dvp*"
_FEW_TICKS = 12
_FEW_TFLOPS = 0.1
_LONG_LABEL = 999


def strategy_colours(points: Sequence[ScalingPoint]) -> dict[str, str]:
    """Return a colour for each strategy, in their order.

    Args:
        points: The points.
    """
    strategies = dict.fromkeys(point.strategy for point in points)
    return {one: OKABE_ITO[n % len(OKABE_ITO)] for n, one in enumerate(strategies)}


def cause_colours(points: Sequence[ScalingPoint]) -> dict[str, str]:
    """Return a colour for each part of a train step, in the order in which they are stacked.

    Args:
        points: The points.
    """
    found = {
        cause
        for point in points
        for split in splits_of(point).values()
        for cause, time_s in split.items()
        if time_s
    }
    levels = dict.fromkeys(level for point in points for level in point.levels)
    waiting = {
        f"waiting, {level}": WAITING_COLOURS[number % len(WAITING_COLOURS)]
        for number, level in enumerate(levels)
    }
    work, rest = (
        ("compute", "recompute", "quantize", "interference"),
        ("sync", "refresh", "optimizer", "other"),
    )
    known = {one: CAUSE_COLOURS[one] for one in work} | waiting
    known |= {one: CAUSE_COLOURS[one] for one in rest}
    known |= dict.fromkeys(sorted(found - known.keys()), "#444444")
    return {cause: colour for cause, colour in known.items() if cause in found}


def splits_of(point: ScalingPoint) -> dict[str, Mapping[str, float]]:
    """Return the time splits of a point: ``measured`` and ``predicted``, as far as known.

    Args:
        point: The point.

    Returns:
        Which one -> cause -> seconds of a train step.
    """
    predicted = point.prediction.split_s if point.prediction else {}
    found = {"measured": point.split_s, "predicted": predicted}
    return {which: split for which, split in found.items() if split}


def draw_scaling(
    points: Sequence[ScalingPoint], published: Sequence[Published], path: Path
) -> bool:
    """Draw TFLOPS per device and scaling efficiency over the number of devices.

    Measured values are markers, joined by lines, with bars from the smallest to the largest of the
    repeats; predicted ones are dashed lines. A star is a published number.

    Args:
        points: The points.
        published: Numbers of others; ratios of strategies have no place here.
        path: The PNG file.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: The file cannot be written.
    """
    if not any(point.measured or point.prediction for point in points):
        return False
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(9.4, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_speeds(left, points)
        _draw_efficiencies(right, points)
        for place, quantity in ((left, "tflops"), (right, "efficiency")):
            _draw_published(place, [p for p in published if p.quantity == quantity], points)
            _label_sizes(place, points)
        _add_legend(figure, points, has_published=any(p.quantity != "ratio" for p in published))
        figure.savefig(path)
    return True


def _by_strategy(points: Sequence[ScalingPoint]) -> dict[str, list[ScalingPoint]]:
    lines: dict[str, list[ScalingPoint]] = {}
    for point in points:
        lines.setdefault(point.strategy, []).append(point)
    return lines


def _draw_speeds(place: "Axes", points: Sequence[ScalingPoint]) -> None:
    colours = strategy_colours(points)
    for number, (strategy, line) in enumerate(_by_strategy(points).items()):
        seen = [(p.size, s) for p in line if (s := p.spread("tflops"))]
        if seen:
            middle = np.array([spread.middle for _, spread in seen])
            below = middle - [spread.low for _, spread in seen]
            above = np.array([spread.high for _, spread in seen]) - middle
            place.errorbar(
                [size for size, _ in seen],
                middle,
                yerr=np.stack([below, above]),
                color=colours[strategy],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4.5,
                capsize=2.5,
                elinewidth=1,
            )
        for point in line:
            if point.prediction and not point.fits:
                place.plot(
                    [point.size],
                    [point.prediction.tflops],
                    color=colours[strategy],
                    marker="x",
                    ls="",
                )
        foreseen = [(p.size, speed) for p in line if (speed := predicted_tflops(p)) is not None]
        if foreseen:
            place.plot(
                *zip(*foreseen, strict=True), color=colours[strategy], ls=(0, (4, 2)), lw=1.1
            )
    place.set_ylim(bottom=0)
    place.set_title("TFLOPS per device")
    if place.get_ylim()[1] < _FEW_TFLOPS:
        place.yaxis.set_major_formatter(lambda value, _: f"{1000 * value:g}")
        place.set_title("GFLOPS per device")


def _draw_efficiencies(place: "Axes", points: Sequence[ScalingPoint]) -> None:
    colours = strategy_colours(points)
    place.axhline(1.0, color="#999999", lw=0.8, zorder=1)
    for number, strategy in enumerate(colours):
        for speed, style in ((measured_tflops, "-"), (predicted_tflops, (0, (4, 2)))):
            found = efficiencies(points, speed)
            line = [(size, value) for (name, size), value in found.items() if name == strategy]
            if line:
                place.plot(
                    *zip(*line, strict=True),
                    color=colours[strategy],
                    ls=style,
                    lw=1.4 if speed is measured_tflops else 1.1,
                    marker=MARKERS[number % len(MARKERS)] if speed is measured_tflops else "",
                    markersize=4.5,
                )
    place.set_ylim(bottom=0)
    place.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    place.set_title("scaling efficiency")


def _draw_published(
    place: "Axes", published: Sequence[Published], points: Sequence[ScalingPoint]
) -> None:
    colours = strategy_colours(points)
    for one in published:
        place.plot(
            [one.size],
            [one.value],
            marker="*",
            markersize=11,
            color=colours.get(one.strategy, "#000000"),
            markeredgecolor="#000000",
            markeredgewidth=0.6,
            ls="",
            zorder=5,
        )


def _label_sizes(place: "Axes", points: Sequence[ScalingPoint]) -> None:
    sizes = sorted({point.size for point in points})
    place.set_xscale("log", base=2)
    shown = sizes if len(sizes) <= _FEW_TICKS else sizes[:: -(-len(sizes) // _FEW_TICKS)]
    place.set_xticks(shown, [f"{size:,.0f}" for size in shown])
    if sizes[-1] > _LONG_LABEL:
        for label in place.get_xticklabels():
            label.set(rotation=45, horizontalalignment="right", fontsize=7)
    place.set_xticks([], minor=True)
    place.set_xlabel("devices")


def _add_legend(figure: object, points: Sequence[ScalingPoint], *, has_published: bool) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.lines import Line2D  # noqa: PLC0415

    if not isinstance(figure, Figure):
        raise TypeError(f"{figure!r} is no figure")
    handles = [
        Line2D([], [], color=colour, label=strategy, lw=2)
        for strategy, colour in strategy_colours(points).items()
    ]
    if any(point.measured for point in points):
        handles.append(
            Line2D([], [], color="#555555", marker="o", markersize=4.5, label="measured")
        )
    if any(point.prediction for point in points):
        handles.append(Line2D([], [], color="#555555", ls=(0, (4, 2)), label="predicted"))
    if any(point.prediction and not point.fits for point in points):
        handles.append(Line2D([], [], color="#555555", marker="x", ls="", label="does not fit"))
    if has_published:
        star = Line2D([], [], color="#bbbbbb", marker="*", ls="", markersize=10, label="published")
        star.set_markeredgecolor("#000000")
        handles.append(star)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


def chosen_sizes(
    points: Sequence[ScalingPoint], published: Sequence[Published] = ()
) -> list[float]:
    """Choose the sizes whose time splits are drawn: the smallest, the largest, one between.

    Args:
        points: The points.
        published: Numbers of others.

    Returns:
        Up to three sizes, ascending; the one between is the largest measured, if that is another,
        or else the one that others have published numbers for, or else the middle one.
    """
    known = sorted({point.size for point in points if splits_of(point)})
    measured = sorted({point.size for point in points if point.split_s})
    ends = {*known[:1], *known[-1:]}
    between = [*measured[-1:], *(one.size for one in published), *known[len(known) // 2 :]]
    found = next((size for size in between if size in known and size not in ends), None)
    return sorted(ends if found is None else {*ends, found})


def draw_scaling_split(
    points: Sequence[ScalingPoint], published: Sequence[Published], path: Path
) -> bool:
    """Draw where the time of a train step goes: a panel for each of up to three sizes.

    Args:
        points: The points.
        published: Numbers of others; their size has a panel.
        path: The PNG file.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: The file cannot be written.
    """
    sizes = chosen_sizes(points, published)
    if not sizes:
        return False
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    colours = cause_colours(points)
    panels = [[point for point in points if point.size == size] for size in sizes]
    bars = _bars_of(panels)
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(9.4, 0.3 * len(bars) + 1.5), layout="constrained")
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, size, panel in zip(places, sizes, panels, strict=True):
            _draw_split(place, panel, bars, colours)
            place.set_title(f"{size:,.0f} device{'s' if size > 1 else ''}")
            place.set_xlabel("seconds of a train step")
        places[0].set_yticks(range(len(bars)), [", ".join(bar) for bar in bars])
        handles = [Patch(color=colour, label=cause) for cause, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
        figure.savefig(path)
    return True


def _bars_of(panels: Sequence[Sequence[ScalingPoint]]) -> list[tuple[str, str]]:
    """Rows that all panels share: strategies, each measured and predicted."""
    found = {
        (point.strategy, which) for panel in panels for point in panel for which in splits_of(point)
    }
    strategies = dict.fromkeys(point.strategy for panel in panels for point in panel)
    rows = [(one, which) for one in strategies for which in ("measured", "predicted")]
    return [row for row in rows if row in found]


def _draw_split(
    place: "Axes",
    panel: Sequence[ScalingPoint],
    bars: Sequence[tuple[str, str]],
    colours: Mapping[str, str],
) -> None:
    splits = {
        (point.strategy, which): split
        for point in panel
        for which, split in splits_of(point).items()
    }
    left = np.zeros(len(bars))
    positions = np.arange(len(bars))
    hatches = ["" if which == "measured" else "///" for _, which in bars]
    for cause, colour in colours.items():
        widths = np.array([splits.get(bar, {}).get(cause, 0.0) for bar in bars])
        place.barh(
            positions, widths, left=left, height=0.72, color=colour, hatch=hatches,
            edgecolor="white", linewidth=0,
        )  # fmt: skip
        left += widths
    place.set_yticks(positions, [""] * len(bars))
    place.invert_yaxis()
    place.locator_params(axis="x", nbins=5)
    place.grid(visible=False, axis="y")
