"""Losses of trainings beside those of one that all are compared with: gaps, table and figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.base import Record
from tasks.tracking.nightly_statistics import student_quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASE = "fp32"
"""The variant that all others are compared with."""
_OUTSIDE = 0.05
"""How often an interval of a mean misses it."""


class Curve(Record):
    """One training.

    Attributes:
        variant: What distinguishes it from others, in words.
        seed: Of weights and batches.
        steps: Train steps at which was validated, ascending.
        validation_loss: Mean over the same tokens each time, in nats.
        received_bytes: Of the last train step, by level of the machine, mean over the ranks.
    """

    variant: str
    seed: int
    steps: tuple[int, ...]
    validation_loss: tuple[float, ...]
    received_bytes: dict[str, float]


def variants_of(curves: Sequence[Curve]) -> list[str]:
    """Return the variants in the order in which they come.

    Args:
        curves: Trainings.
    """
    return list(dict.fromkeys(curve.variant for curve in curves))


def curves_of(variant: str, curves: Sequence[Curve]) -> list[Curve]:
    """Return the trainings of a variant.

    Args:
        variant: Its name.
        curves: All trainings.
    """
    return [curve for curve in curves if curve.variant == variant]


def gaps_over_steps(
    variant: str, curves: Sequence[Curve], *, base: str = BASE
) -> list[list[float]]:
    """Return how much higher than those of another one the losses of a variant are, seed by seed.

    Args:
        variant: Its name.
        curves: All trainings.
        base: The other one's name.

    Returns:
        One row a seed, ascending; one gap each validation, in nats. Seeds that the other one has
        not been trained with are left out.
    """
    beside = {curve.seed: curve.validation_loss for curve in curves_of(base, curves)}
    own = sorted(curves_of(variant, curves), key=lambda curve: curve.seed)
    return [
        [loss - other for loss, other in zip(one.validation_loss, beside[one.seed], strict=True)]
        for one in own
        if one.seed in beside
    ]


def last_gaps(variant: str, curves: Sequence[Curve], *, base: str = BASE) -> list[float]:
    """Return the gaps of a variant at the last validation, by seed.

    Args:
        variant: Its name.
        curves: All trainings.
        base: The variant that it is compared with.
    """
    return [gaps[-1] for gaps in gaps_over_steps(variant, curves, base=base)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean, by Student's t.

    Args:
        values: Independent ones, at least two.
    """
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = error * student_quantile(_OUTSIDE, len(values) - 1)
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation as of a sample; 0 for a single value.

    Args:
        values: At least one.
    """
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(curves: Sequence[Curve]) -> str:
    """Return the table of the last losses, Markdown.

    Losses are mean ± standard deviation over the seeds, gaps the mean and its 95 % interval.

    Args:
        curves: All trainings; at least two of each variant.
    """
    levels = list(dict.fromkeys(level for curve in curves for level in curve.received_bytes))
    head = ["transport", "validation loss", "gap [95 %]", "smallest, largest gap"]
    head += [f"KiB a step, {level}" for level in levels]
    rows = [head, ["---"] * len(head)]
    for variant in variants_of(curves):
        own = curves_of(variant, curves)
        losses = [curve.validation_loss[-1] for curve in own]
        gaps = last_gaps(variant, curves)
        cells = [variant, f"{statistics.fmean(losses):.4f} ± {deviation(losses):.4f}", "", ""]
        if gaps and variant != BASE:
            cells[2] = _with_interval(gaps)
            cells[3] = f"{min(gaps):+.4f}, {max(gaps):+.4f}"
        received = own[0].received_bytes
        rows.append([*cells, *(f"{received.get(level, 0) / 1024:,.0f}" for level in levels)])
    return _markdown(rows)


def comparisons(pairs: Mapping[str, tuple[str, str]], curves: Sequence[Curve]) -> str:
    """Return a table of what one change of a transport does to the last loss, Markdown.

    Args:
        pairs: By what is changed: the variant with it, and the one without it.
        curves: All trainings; at least two of each variant.
    """
    rows = [["change", "loss [95 %]", "higher in"], ["---"] * 3]
    for change, (changed, base) in pairs.items():
        gaps = last_gaps(changed, curves, base=base)
        higher = sum(gap > 0 for gap in gaps)
        rows.append([change, _with_interval(gaps), f"{higher} seeds of {len(gaps)}"])
    return _markdown(rows)


def _with_interval(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{statistics.fmean(values):+.4f} [{low:+.4f}, {high:+.4f}]"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw the losses over the train steps, and the gaps: over the train steps, and at the end.

    Args:
        curves: All trainings.
        path: The PNG file.

    Raises:
        OSError: It cannot be written.
    """
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    from tasks.tracking.figures import OKABE_ITO, STYLE  # noqa: PLC0415

    colours = dict(zip(variants_of(curves), ("#000000", *OKABE_ITO), strict=False))
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(9.6, 3.7), layout="constrained")
        losses, over_steps, at_end = figure.subplots(1, 3)
        for variant, colour in colours.items():
            own = curves_of(variant, curves)
            values = [curve.validation_loss for curve in own]
            _draw_band(losses, own[0].steps, values, colour=colour, label=variant)
        _title(losses, "validation loss", "train step")
        compared = [variant for variant in colours if variant != BASE]
        for number, variant in enumerate(compared):
            if gaps := gaps_over_steps(variant, curves):
                steps = curves_of(variant, curves)[0].steps
                _draw_band(over_steps, steps, gaps, colour=colours[variant], label=variant)
                _draw_points(at_end, number, last_gaps(variant, curves), colour=colours[variant])
        _title(over_steps, "gap to fp32 of the same seed", "train step")
        _title(at_end, "last gap", "each seed; mean and its 95 % interval")
        at_end.set_xticks([])
        for place in (over_steps, at_end):
            place.axhline(0, color="#555555", lw=0.7)
        figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _draw_band(
    place: "Axes",
    steps: Sequence[int],
    values: Sequence[Sequence[float]],
    *,
    colour: str,
    label: str,
) -> None:
    """Draw a mean, and a band from the smallest to the largest."""
    at_step = list(zip(*values, strict=True))
    means = [statistics.fmean(some) for some in at_step]
    place.plot(steps, means, color=colour, label=label)
    lowest, highest = [min(some) for some in at_step], [max(some) for some in at_step]
    place.fill_between(steps, lowest, highest, color=colour, alpha=0.15, lw=0)


def _draw_points(place: "Axes", x: float, values: Sequence[float], *, colour: str) -> None:
    place.plot([x] * len(values), values, "o", color=colour, ms=4, alpha=0.7)
    low, high = interval(values)
    mean, half = statistics.fmean(values), (high - low) / 2
    place.errorbar(x + 0.2, mean, half, fmt="_", color=colour, ms=9, capsize=3)


def _title(place: "Axes", title: str, x_label: str) -> None:
    place.set_title(title)
    place.set_xlabel(x_label)
