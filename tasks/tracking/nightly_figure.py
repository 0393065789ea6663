"""Figure of the nights: what the runs of each night have measured, tonight in colour."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.tracking.figures import OKABE_ITO, STYLE
from tasks.tracking.nightly_comparison import PointComparison
from tasks.tracking.nightly_statistics import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 6
_COLOURS = {
    Verdict.WORSE: OKABE_ITO[1],
    Verdict.BETTER: OKABE_ITO[2],
    Verdict.SAME: OKABE_ITO[0],
    Verdict.CANNOT_TELL: OKABE_ITO[4],
}
_ORDER = (Verdict.WORSE, Verdict.BETTER, Verdict.CANNOT_TELL, Verdict.SAME)
_PER_ROW = 3


def draw_nights(compared: Sequence[PointComparison], tonight: date, path: Path) -> bool:
    """Draw a panel for each point and metric, what has changed first, six at most.

    Args:
        compared: The comparisons of a night.
        tonight: Its date.
        path: The PNG file.

    Returns:
        Whether there was anything to draw: some point has an earlier night.

    Raises:
        OSError: The file cannot be written.
    """
    shown = sorted(
        (one for one in compared if one.nights), key=lambda one: _ORDER.index(one.result.verdict)
    )[:MOST_PANELS]
    if not shown:
        return False
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = min(len(shown), _PER_ROW)
    rows = -(-len(shown) // columns)
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(2.9 * columns + 0.4, 2.1 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for spare in grid.flat[len(shown) :]:
            spare.set_axis_off()
        for place, one in zip(grid.flat, shown, strict=False):
            _draw(place, one, tonight)
        figure.savefig(path)
    return True


def _draw(place: "Axes", one: PointComparison, tonight: date) -> None:
    """Nights before as dots a repeat, their median as a line; tonight in the verdict's colour."""
    nights = sorted(one.nights)
    days = [-(tonight - night).days for night, _ in nights]
    for day, (_, values) in zip(days, nights, strict=True):
        place.plot([day] * len(values), values, "o", ms=3.5, color="#aaaaaa", mew=0)
    means = [float(np.mean(values)) for _, values in nights]
    place.plot(days, means, color="#888888", lw=1)
    if one.reference is not None:
        place.axhline(one.reference, color="#555555", lw=0.8, ls=(0, (4, 2)))
    colour = _COLOURS[one.result.verdict]
    place.plot([0] * len(one.tonight), one.tonight, "o", ms=5, color=colour, mew=0)
    place.plot(
        [days[-1], 0], [means[-1], float(np.mean(one.tonight))], color=colour, lw=1, ls=(0, (1, 1))
    )
    everything = [value for _, values in nights for value in values] + list(one.tonight)
    middle = float(np.median(everything))
    # A change of the least effect must not fill the panel.
    half = max(1.15 * max(abs(value - middle) for value in everything), 0.05 * abs(middle))
    place.set_ylim(middle - half, middle + half)
    place.set_xlim(min(days) - 0.7, 0.7)
    place.locator_params(axis="x", integer=True)
    place.set_title(f"{one.metric}\n{_short(one.label)}: {one.result.verdict}")
    place.set_xlabel("days from tonight")


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}\N{HORIZONTAL ELLIPSIS}"
