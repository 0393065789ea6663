"""Figures of trainings: which curves there are, and where the time of a train step goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtime.metrics import Metric
from tasks.tracking.axes import SEED_AXES, told
from tasks.tracking.figures import OKABE_ITO, STYLE, Panel
from tasks.tracking.rows import Row
from tasks.tracking.tables import scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING_PANELS = (
    Panel(Metric.TRAIN_LOSS, None, "training loss", "train step", is_noisy=True),
    Panel(Metric.VALIDATION_LOSS, None, "validation loss", "train step"),
    Panel(Metric.TRAIN_LOSS, Metric.WALL_S, "training loss", "wall time (s)", is_noisy=True),
    Panel(Metric.TOKENS_PER_S, None, "tokens/s", "train step", is_noisy=True),
)
_FIXED = {"compute": "#9a9a9a", "optimizer": "#cccccc", "other": "#ececec"}
"""Work is grey; what a better partition can save, the waiting, has the colours."""
_MOST_BARS = 48


def draw_time_split(rows: Sequence[Row], path: Path) -> bool:
    """Draw a bar for each run: how long a train step computes, waits for others, and updates.

    Runs that differ in their seed only are one bar, their mean.

    Args:
        rows: The points of a study; those that have measured nothing are left out.
        path: The PNG file.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: The file cannot be written.
    """
    bars = _bars(rows)
    if not bars:
        return False
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = dict(list(bars.items())[:_MOST_BARS])
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(8.4, 0.32 * len(shown) + 1.4), layout="constrained")
        place = figure.subplots()
        _draw_bars(place, shown)
        more = f" (the first {_MOST_BARS} of {len(bars)} runs)" if len(bars) > _MOST_BARS else ""
        place.set_title(f"where the time of a train step goes{more}")
        figure.legend(loc="outside lower center", ncols=6)
        figure.savefig(path)
    return True


def _bars(rows: Sequence[Row]) -> dict[str, tuple[dict[str, float], float | None]]:
    """What distinguishes the runs, seeds apart -> time split and tokens/s, means over seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.training and row.training.step_s is not None:
            words = [told(*one) for one in row.coordinates.items() if one[0] not in SEED_AXES]
            groups.setdefault(", ".join(words) or row.training.partition, []).append(row)
    return {label: _mean(members) for label, members in groups.items()}


def _mean(members: Sequence[Row]) -> tuple[dict[str, float], float | None]:
    trainings = [row.training for row in members if row.training]
    splits = [one.time_split() for one in trainings]
    speeds = [one.tokens_per_s for one in trainings if one.tokens_per_s is not None]
    names = dict.fromkeys(name for split in splits for name in split)
    split = {name: sum(one.get(name, 0.0) for one in splits) / len(splits) for name in names}
    return split, sum(speeds) / len(speeds) if speeds else None


def _draw_bars(place: "Axes", bars: Mapping[str, tuple[Mapping[str, float], float | None]]) -> None:
    found = dict.fromkeys(name for split, _ in bars.values() for name in split)
    waiting = [name for name in found if name not in _FIXED]
    colours = dict(zip(waiting, OKABE_ITO, strict=False)) | _FIXED
    positions = range(len(bars))
    left = [0.0] * len(bars)
    for name in ("compute", *waiting, "optimizer", "other"):
        widths = [split.get(name, 0.0) for split, _ in bars.values()]
        place.barh(positions, widths, left=left, height=0.7, color=colours[name], label=name)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for position, end, (_, speed) in zip(positions, left, bars.values(), strict=True):
        if speed is not None:
            place.annotate(
                f"{scaled(speed)} tokens/s",
                (end, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color="#555555",
                fontsize=8,
            )
    place.set_yticks(positions, list(bars))
    place.invert_yaxis()
    place.grid(visible=False, axis="y")
    place.set_xlim(0, max(left) * 1.18)
    place.set_xlabel("seconds of a train step")
