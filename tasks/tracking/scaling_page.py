"""An interactive page of a scaling study, one file that needs no network; and its data."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from configs.scaling_points import Published
from tasks.runtime.atomic_files import write_atomically
from tasks.tracking.rates import Speedup
from tasks.tracking.scaling_figures import cause_colours, splits_of, strategy_colours
from tasks.tracking.scaling_rows import (
    ScalingPoint,
    efficiencies,
    measured_tflops,
    predicted_tflops,
)
from tasks.tracking.speedup import below_and_above, fit_speedup
from tasks.tracking.tables import scaled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]  # it has none

PAGE_HEAD = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 1.5em; max-width: 1200px; }}</style></head>
<body><h1>{title}</h1><p>{description}</p>
"""
_BAR_HEIGHT, _AROUND_BARS = 26, 160


def write_page(
    name: str,
    description: str,
    points: Sequence[ScalingPoint],
    published: Sequence[Published],
    path: Path,
) -> bool:
    """Write the figures as a page to look around in: values under the pointer, lines to hide.

    Args:
        name: Of the study.
        description: Of the study.
        points: Its points.
        published: Numbers of others.
        path: The HTML file, about 5 MB.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: The file cannot be written.
    """
    if not any(point.measured or point.prediction for point in points):
        return False
    parts = [PAGE_HEAD.format(title=escape(name), description=escape(description))]
    for number, figure in enumerate((_curves(points, published), _splits(points))):
        parts.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    write_atomically(path, "\n".join([*parts, "</body></html>\n"]).encode())
    return True


def write_speedup_page(
    name: str, description: str, groups: Mapping[str, Sequence[Speedup]], path: Path
) -> None:
    """Write the speed-up of federated averaging as a page to look around in.

    Args:
        name: Of the study.
        description: Of the study.
        groups: What else varies -> the speed-ups of its configurations.
        path: The HTML file, about 5 MB.

    Raises:
        OSError: The file cannot be written.
    """
    from plotly.graph_objects import Figure, Scatter  # noqa: PLC0415

    most = max(one.ideal for members in groups.values() for one in members)
    figure = Figure([Scatter(x=[1, most], y=[1, most], name="ideal", line={"color": "#999999"})])
    for rest, members in groups.items():
        for steps in sorted({one.local_steps for one in members}):
            line = [one for one in members if one.local_steps == steps]
            below, above = zip(*map(below_and_above, line), strict=True)
            bars = {"type": "data", "array": above, "arrayminus": below}
            figure.add_trace(
                Scatter(
                    x=[one.ideal for one in line],
                    y=[one.measured for one in line],
                    error_y=bars,
                    mode="lines+markers",
                    name=", ".join(filter(None, [rest, f"K = {steps:g}"])),
                    hovertext=[f"m = {one.collect:g}, K = {one.local_steps:g}" for one in line],
                )
            )
        if fit := fit_speedup(members):
            figure.add_trace(
                Scatter(
                    x=[1, most],
                    y=[fit.scale, fit.scale * most**fit.exponent],
                    name=", ".join(filter(None, [rest, f"fitted, exponent {fit.exponent:.2f}"])),
                    line={"color": "#999999", "dash": "dash"},
                )
            )
    figure.update_xaxes(type="log", title="ideal speed-up: m K relative to the base")
    figure.update_yaxes(type="log", title="measured speed-up (G of the base / G)²")
    figure.update_layout(height=620, template="plotly_white")
    head = PAGE_HEAD.format(title=escape(name), description=escape(description))
    page = figure.to_html(full_html=False, include_plotlyjs=True)
    write_atomically(path, "\n".join([head, page, "</body></html>\n"]).encode())


def write_data(points: Sequence[ScalingPoint], path: Path) -> None:
    """Write the points as JSON: what the figures show, for other programs.

    Args:
        points: The points.
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    measured = efficiencies(points, measured_tflops)
    foreseen = efficiencies(points, predicted_tflops)
    rows = []
    for point in points:
        fields = {
            field.name: getattr(point, field.name)
            for field in dataclasses.fields(point)
            if field.name not in {"measured", "cost", "prediction"}
        }
        key = (point.strategy, point.size)
        rows.append(
            fields
            | {
                "measured": {k: dataclasses.asdict(v) for k, v in point.measured.items()},
                "cost": dataclasses.asdict(point.cost),
                "prediction": point.prediction and point.prediction.model_dump(mode="json"),
                "efficiency": measured.get(key),
                "predicted_efficiency": foreseen.get(key),
            }
        )
    write_atomically(path, json.dumps(rows, indent=1).encode())


def _curves(points: Sequence[ScalingPoint], published: Sequence[Published]) -> "Figure":
    from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # noqa: PLC0415  1 s

    figure = make_subplots(
        rows=1, cols=2, subplot_titles=("TFLOPS per device", "scaling efficiency")
    )
    measured = efficiencies(points, measured_tflops)
    foreseen = efficiencies(points, predicted_tflops)
    for strategy, colour in strategy_colours(points).items():
        line = [point for point in points if point.strategy == strategy]
        _add_measured(figure, strategy, colour, line, measured)
        _add_predicted(figure, strategy, colour, line, foreseen)
        for one in published:
            if one.strategy == strategy and one.quantity != "ratio":
                _add_published(figure, one, colour)
    ticks = sorted({point.size for point in points})
    figure.update_xaxes(
        type="log", title="devices", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks]
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(tickformat=".0%", col=2)
    figure.update_layout(height=520, template="plotly_white", hovermode="closest")
    return figure


def _add_measured(
    figure: "Figure",
    strategy: str,
    colour: str,
    line: Sequence[ScalingPoint],
    efficiency: dict[tuple[str, float], float],
) -> None:
    from plotly.graph_objects import Scatter  # noqa: PLC0415

    seen = [(point, spread) for point in line if (spread := point.spread("tflops"))]
    if not seen:
        return
    sizes = [point.size for point, _ in seen]
    style = {
        "mode": "lines+markers", "line": {"color": colour}, "legendgroup": strategy,
        "name": f"{strategy}, measured", "hovertext": [_hover(point) for point, _ in seen],
    }  # fmt: skip
    bars = {
        "type": "data",
        "array": [spread.high - spread.middle for _, spread in seen],
        "arrayminus": [spread.middle - spread.low for _, spread in seen],
    }
    tflops = [spread.middle for _, spread in seen]
    figure.add_trace(Scatter(x=sizes, y=tflops, error_y=bars, **style), row=1, col=1)
    values = [efficiency.get((strategy, size)) for size in sizes]
    figure.add_trace(Scatter(x=sizes, y=values, showlegend=False, **style), row=1, col=2)


def _add_predicted(
    figure: "Figure",
    strategy: str,
    colour: str,
    line: Sequence[ScalingPoint],
    efficiency: dict[tuple[str, float], float],
) -> None:
    from plotly.graph_objects import Scatter  # noqa: PLC0415

    seen = [point for point in line if predicted_tflops(point) is not None]
    if not seen:
        return
    sizes = [point.size for point in seen]
    style = {
        "mode": "lines+markers", "line": {"color": colour, "dash": "dash"},
        "marker": {"symbol": "circle-open", "size": 5}, "legendgroup": strategy,
        "name": f"{strategy}, predicted", "hovertext": [_hover(point) for point in seen],
    }  # fmt: skip
    tflops = [predicted_tflops(point) for point in seen]
    figure.add_trace(Scatter(x=sizes, y=tflops, **style), row=1, col=1)
    values = [efficiency.get((strategy, size)) for size in sizes]
    figure.add_trace(Scatter(x=sizes, y=values, showlegend=False, **style), row=1, col=2)


def _add_published(figure: "Figure", one: Published, colour: str) -> None:
    from plotly.graph_objects import Scatter  # noqa: PLC0415

    trace = Scatter(
        x=[one.size],
        y=[one.value],
        mode="markers",
        marker={"symbol": "star", "size": 14, "color": colour, "line": {"width": 1}},
        name=f"{one.strategy}, published",
        hovertext=[escape(one.source)],
        legendgroup=one.strategy,
    )
    figure.add_trace(trace, row=1, col=1 if one.quantity == "tflops" else 2)


def _hover(point: ScalingPoint) -> str:
    """What stands under the pointer, a line each."""
    lines = [f"{point.strategy}, {point.size:g} devices on {point.nodes} nodes, {point.state}"]
    if step_s := point.spread("step_s"):
        lines.append(f"train step: {step_s.middle:.4g} s measured ({step_s.count} runs)")
    if point.prediction:
        lines.append(f"train step: {point.prediction.step_s:.4g} s predicted")
        lines.append(f"memory: {scaled(point.prediction.peak_bytes, 'B')} predicted")
    if point.cost.node_hours is not None:
        lines.append(f"node-hours: {point.cost.node_hours:.3g}")
    lines += [f"reused from {name}" for name in point.reused_from]
    lines += [f"predicted only: {point.reason}"] if point.reason else []
    return "<br>".join(map(escape, lines))


def _splits(points: Sequence[ScalingPoint]) -> "Figure":
    from plotly.graph_objects import Bar, Figure  # noqa: PLC0415

    bars = [
        (f"{point.strategy}, {point.size:g}, {which}", split)
        for point in points
        for which, split in splits_of(point).items()
    ]
    traces = [
        Bar(
            y=[label for label, _ in bars],
            x=[split.get(cause, 0.0) for _, split in bars],
            name=cause,
            orientation="h",
            marker={"color": colour},
        )
        for cause, colour in cause_colours(points).items()
    ]
    figure = Figure(traces)
    figure.update_layout(
        barmode="stack",
        height=_AROUND_BARS + _BAR_HEIGHT * len(bars),
        template="plotly_white",
        title="Where the time of a train step goes",
        xaxis_title="seconds of a train step",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure
