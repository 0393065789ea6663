"""What the report of a scaling study says: a row a strategy and size, and others' numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from configs.scaling_points import Published, Scaling
from tasks.tracking.scaling_rows import (
    ScalingPoint,
    Spread,
    base_sizes,
    efficiencies,
    measured_tflops,
    predicted_tflops,
)
from tasks.tracking.tables import markdown_table, number, percent, scaled

_NOTE = (
    "Measured values are medians over repeats, with the smallest and the largest in brackets; "
    "TFLOPS are of one device. Efficiency is TFLOPS per device over those of the same strategy at "
    "its base: the smallest size that was measured, else predicted. ~ marks what the cost model "
    "says and nobody has measured; bytes are what a rank gets from others in a train step. "
    "Measured memory is that of a GPU, or of a whole process. Node-hours and energy are of one "
    "run: as Slurm accounts for them, else nodes times wall time, else predicted for the train "
    "steps alone."
)
_UNPREDICTED = (
    "Nothing could be predicted: the machine's file lacks numbers. `watershed calibrate` measures "
    "them and writes a file with them, to be named as `topology`."
)

_Text = Callable[[ScalingPoint], str]
_Column = tuple[str, _Text]


def scaling_section(
    scaling: Scaling,
    points: Sequence[ScalingPoint],
    *,
    figures: Mapping[str, str],
    page: str,
) -> str:
    """Write the section of a scaling study of trainings.

    Args:
        scaling: The study's section.
        points: Its points.
        figures: Caption -> name of the PNG file, for those that were drawn.
        page: Name of the interactive page; empty if there is none.

    Returns:
        Markdown; empty without points.
    """
    if not points:
        return ""
    names = _names(points)
    further = [_table(points, names, group) for group in (_costs(), _traffic(points))]
    parts = [
        f"## Scaling, {scaling.mode}",
        *(f"![{caption}]({name})" for caption, name in figures.items()),
        f"Interactive: [{page}]({page})." if page else "",
        _table(points, names, _compared(points)),
        _NOTE,
        "" if any(point.prediction for point in points) else _UNPREDICTED,
        _accuracy(points),
        _published(scaling.published, points),
        _reasons(points),
        "### Speed, traffic and costs" if any(further) else "",
        *further,
    ]
    return "\n\n".join(part for part in parts if part)


def _table(
    points: Sequence[ScalingPoint], names: Sequence[_Column], columns: Sequence[_Column]
) -> str:
    """Lay out the columns that have a text; several tables fit where one would be too wide."""
    filled = [column for column in columns if any(column[1](point) for point in points)]
    if not filled:
        return ""
    shown = [*names, *filled]
    return markdown_table(
        [name for name, _ in shown], [[text(point) for _, text in shown] for point in points]
    )


def _names(points: Sequence[ScalingPoint]) -> list[_Column]:
    strategies: list[_Column] = [("strategy", lambda point: point.strategy)]
    has_strategies = len({point.strategy for point in points}) > 1
    return [*(strategies if has_strategies else []), ("devices", lambda point: f"{point.size:g}")]


def _compared(points: Sequence[ScalingPoint]) -> list[_Column]:
    measured = efficiencies(points, measured_tflops)
    predicted = efficiencies(points, predicted_tflops)
    bases = base_sizes(points)
    return [
        ("state", _state_of(points)),
        ("TFLOPS", lambda point: spread_text(point.spread("tflops"))),
        ("predicted", _predicted_speed),
        ("step, predicted / measured", _error),
        ("efficiency", _compared_with_base(measured, bases)),
        ("predicted eff.", _compared_with_base(predicted, bases)),
    ]


def _costs() -> list[_Column]:
    return [
        ("MFU", _either("mfu", lambda p: p.prediction.mfu if p.prediction else None, percent)),
        (
            "tokens/s",
            _either(
                "tokens_per_s",
                lambda p: p.prediction.tokens_per_s if p.prediction else None,
                scaled,
            ),
        ),
        (
            "memory",
            _either(
                "peak_bytes",
                lambda p: p.prediction.peak_bytes if p.prediction else None,
                lambda value: scaled(value, "B"),
            ),
        ),
        ("node-hours", _node_hours),
        ("energy", _energy),
        ("reused from", lambda point: ", ".join(point.reused_from)),
    ]


def _traffic(points: Sequence[ScalingPoint]) -> list[_Column]:
    levels = dict.fromkeys(level for point in points for level in point.levels)
    return [(f"bytes over {level}", _bytes_over(level)) for level in levels]


def _compared_with_base(
    found: Mapping[tuple[str, float], float], bases: Mapping[str, float]
) -> _Text:
    def text(point: ScalingPoint) -> str:
        value = number(found.get((point.strategy, point.size)), 3)
        return f"{value} (base)" if value and point.size == bases.get(point.strategy) else value

    return text


def _predicted_speed(point: ScalingPoint) -> str:
    if point.prediction is None:
        return ""
    text = number(point.prediction.tflops, 3)
    return text if point.fits else f"({text}, does not fit)"


def _state_of(points: Sequence[ScalingPoint]) -> _Text:
    is_plain = {point.state for point in points} <= {"finished", "predicted"}
    return lambda point: "" if is_plain else point.state


def _either(
    measure: str,
    predicted: Callable[[ScalingPoint], float | None],
    text: Callable[[float | None], str],
) -> _Text:
    """Show the measured median, or else the predicted value with its mark."""

    def show(point: ScalingPoint) -> str:
        spread = point.spread(measure)
        return text(spread.middle) if spread else _marked(text(predicted(point)))

    return show


def _bytes_over(level: str) -> _Text:
    def predicted(point: ScalingPoint) -> float | None:
        return point.prediction.bytes_per_step.get(level) if point.prediction else None

    return _either(f"bytes_{level}", predicted, scaled)


def _marked(text: str) -> str:
    return f"~{text}" if text else ""


def _node_hours(point: ScalingPoint) -> str:
    text = number(point.cost.node_hours, 3)
    return text if point.measured or not text else _marked(text)


def _energy(point: ScalingPoint) -> str:
    text = scaled(point.cost.energy_j, "J")
    return text if point.cost.is_energy_measured else _marked(text)


def _error(point: ScalingPoint) -> str:
    error = point.prediction_error
    return "" if error is None else f"{100 * error:+.0f} %"


def spread_text(spread: Spread | None) -> str:
    """Write a measure with its spread: ``12.3 [12.1, 12.6]``; None gives no text."""
    if spread is None:
        return ""
    if spread.count == 1:
        return f"{spread.middle:.3g}"
    return f"{spread.middle:.3g} [{spread.low:.3g}, {spread.high:.3g}]"


def mean_prediction_error(points: Sequence[ScalingPoint]) -> float | None:
    """Return the mean size of the prediction's relative error; None without a comparison."""
    errors = [abs(e) for point in points if (e := point.prediction_error) is not None]
    return float(np.mean(errors)) if errors else None


def _accuracy(points: Sequence[ScalingPoint]) -> str:
    mean = mean_prediction_error(points)
    if mean is None:
        return ""
    errors = [abs(e) for point in points if (e := point.prediction_error) is not None]
    return (
        f"Predicted against measured time of a train step, over {len(errors)} points: off by "
        f"{100 * mean:.0f} % on average, {100 * max(errors):.0f} % at most."
    )


def compared(
    one: Published, points: Sequence[ScalingPoint], speed: Callable[[ScalingPoint], float | None]
) -> float | None:
    """Return our value of what somebody has published.

    Args:
        one: What was published.
        points: Our points.
        speed: Of one device at a point: ``measured_tflops`` or ``predicted_tflops``.

    Returns:
        The value; None where the study does not have it.
    """
    if one.quantity == "efficiency":
        return efficiencies(points, speed).get((one.strategy, one.size))
    speeds = {(point.strategy, point.size): speed(point) for point in points}
    own = speeds.get((one.strategy, one.size))
    if own is None or one.quantity == "tflops":
        return own
    other = speeds.get((one.over or "", one.size))
    return own / other if other else None


def _published(published: Sequence[Published], points: Sequence[ScalingPoint]) -> str:
    if not published:
        return ""
    body = [
        [
            f"{_words(one)} at {one.size} devices",
            f"{one.value:g}",
            number(compared(one, points, measured_tflops), 4),
            number(compared(one, points, predicted_tflops), 4),
            one.source,
        ]
        for one in published
    ]
    table = markdown_table(["", "published", "measured", "predicted", "source"], body)
    return f"### Beside what was published\n\n{table}"


def _words(one: Published) -> str:
    if one.quantity == "ratio":
        return f"TFLOPS of {one.strategy} over {one.over}"
    return f"{'TFLOPS' if one.quantity == 'tflops' else 'efficiency'} of {one.strategy}"


def _reasons(points: Sequence[ScalingPoint]) -> str:
    """Say why points have no job, each reason once."""
    told: dict[str, list[str]] = {}
    for point in points:
        if point.reason:
            told.setdefault(point.reason, []).append(f"{point.strategy} at {point.size:g}")
    lines = [f"- {_some(where)}: {reason}" for reason, where in told.items()]
    return "### Predicted only\n\n" + "\n".join(lines) if lines else ""


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 4} more" if len(labels) > 4 else ""
    return ", ".join(labels[:4]) + more
