"""Linear speed-up: which configurations of a study it compares, and the figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.federated import FederatedExperiment
from configs.scaling_points import mean_local_steps
from configs.study import Study
from tasks.runtime.metrics import Metric
from tasks.tracking.axes import SEED_AXES, told
from tasks.tracking.figures import OKABE_ITO, STYLE
from tasks.tracking.history import RunHistory
from tasks.tracking.nightly_statistics import student_quantile
from tasks.tracking.rates import OUTSIDE, Speedup, mean_square_gradient, speedups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_FITTED = 2
_SCALED = ("algorithm.collect", "local_steps")
_TUNED = ("algorithm.server_lr", "worker.lr")  # the theorems scale the rates with m and K


def measure_speedups(study: Study, histories: Sequence[RunHistory]) -> dict[str, list[Speedup]]:
    """Compare the configurations that differ in m or K (and their rates), at equal rounds.

    Args:
        study: The study, whose grid says what differs.
        histories: Its runs; unfinished ones are left out.

    Returns:
        What else varies -> its speed-ups, for all that have at least two different m K.
    """
    scaling = scaling_axes(study)
    finished = [
        history
        for history in histories
        if history.state == "finished" and len(history.series(Metric.TRAIN_GRAD_SQ_NORM)) > 1
    ]
    if not scaling or not finished:
        return {}
    until = min(_span(history) for history in finished)
    groups: dict[str, dict[tuple[float, float], list[float]]] = {}
    for history in finished:
        configuration = configuration_of(scaling, history)
        series = history.series(Metric.TRAIN_GRAD_SQ_NORM)
        mean_square = mean_square_gradient(series.rounds, series.values, until)
        if configuration is None or mean_square is None:
            continue
        rest, size = configuration
        groups.setdefault(rest, {}).setdefault(size, []).append(mean_square)
    return {
        rest: speedups(measured)
        for rest, measured in groups.items()
        if len({collect * steps for collect, steps in measured}) > 1
    }


def scaling_axes(study: Study) -> set[str]:
    """Return the axes of a study that change m or K, and nothing else but the rates.

    Args:
        study: The study.
    """
    return {name for name, axis in study.grid.items() if _scales(name, axis)}


def configuration_of(
    scaling: set[str], history: RunHistory
) -> tuple[str, tuple[float, float]] | None:
    """Return what a run is compared as.

    Args:
        scaling: Axes that change m or K.
        history: The run.

    Returns:
        What else varies, in words, and (m, K); None if it has no K, or is no federated run.
    """
    experiment = history.job.experiment
    if not isinstance(experiment, FederatedExperiment):
        return None
    steps = mean_local_steps(experiment)
    if steps is None:
        return None
    rest = ", ".join(
        told(name, label)
        for name, label in history.job.coordinates.items()
        if name not in scaling | SEED_AXES
    )
    return rest, (float(experiment.algorithm.collect), steps)


def _scales(name: str, axis: Sequence[object] | Mapping[str, Mapping[str, object]]) -> bool:
    """Whether an axis changes m or K, and nothing else but the rates."""
    paths = (
        {path for value in axis.values() for path in value} if isinstance(axis, Mapping) else {name}
    )
    return any(path.startswith(_SCALED) for path in paths) and all(
        path.startswith(_SCALED + _TUNED) for path in paths
    )


def _span(history: RunHistory) -> float:
    rounds = history.series(Metric.TRAIN_GRAD_SQ_NORM).rounds
    return float(rounds[-1] - rounds[0])


@dataclass(frozen=True)
class SpeedupFit:
    """A power law: the speed-up is the scale times the ideal one to the power of the exponent.

    Attributes:
        exponent: 1 is linear speed-up.
        scale: What the law has at the base; its distance from 1 is the base's own error.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        count: Configurations beside the base.
    """

    exponent: float
    scale: float
    low: float
    high: float
    count: int


def fit_speedup(members: Sequence[Speedup]) -> SpeedupFit | None:
    """Fit the exponent by least squares in logarithms.

    The base is a point like the others: its G has the same error, which all speed-ups share as they
    are relative to it. A line forced through it would take that error for slope.

    Args:
        members: Speed-ups, the base among them.

    Returns:
        The fit, its interval by Student's t from the residuals; None for fewer than 2
        configurations beside the base.
    """
    fitted = [one for one in members if one.measured > 0]
    if len(fitted) <= _LEAST_FITTED or len({one.ideal for one in fitted}) == 1:
        return None
    log_ideal = np.log([one.ideal for one in fitted])
    log_measured = np.log([one.measured for one in fitted])
    x, y = log_ideal - log_ideal.mean(), log_measured - log_measured.mean()
    exponent = float(x @ y / (x @ x))
    residuals = y - exponent * x
    degrees = len(fitted) - 2
    error = float(np.sqrt(residuals @ residuals / degrees / (x @ x)))
    half = error * student_quantile(OUTSIDE, degrees)
    scale = float(np.exp(log_measured.mean() - exponent * log_ideal.mean()))
    return SpeedupFit(exponent, scale, exponent - half, exponent + half, len(fitted) - 1)


def fits_of(members: Sequence[Speedup]) -> dict[str, SpeedupFit]:
    """Fit all configurations, and those that differ from the base in m alone, or in K alone.

    Args:
        members: Speed-ups, by increasing m K; the first is the base.

    Returns:
        ``m K``, ``m`` and ``K``, those of which there are enough configurations.
    """
    base = members[0]
    chosen = {
        "m K": members,
        "m": [one for one in members if one.local_steps == base.local_steps],
        "K": [one for one in members if one.collect == base.collect],
    }
    fits = {name: fit_speedup(some) for name, some in chosen.items()}
    return {name: fit for name, fit in fits.items() if fit is not None}


def draw_speedup(groups: Mapping[str, Sequence[Speedup]], path: Path) -> None:
    """Draw measured against ideal speed-up.

    Args:
        groups: What else varies -> the speed-ups of its configurations.
        path: The PNG file.

    Raises:
        OSError: The file cannot be written.
    """
    import matplotlib  # noqa: PLC0415  0.3 s
    from matplotlib.figure import Figure  # noqa: PLC0415

    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(4.0 * len(groups) + 0.4, 4.0), layout="constrained")
        places = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
        for place, (name, members) in zip(places, groups.items(), strict=True):
            _draw_speedup_panel(place, members)
            place.set_title(name)
        places[0].set_ylabel("measured speed-up (G of the base / G)²")
        figure.savefig(path)


def below_and_above(one: Speedup) -> tuple[float, float]:
    """Return how far its interval reaches to either side; 0 where none is known."""
    if one.low is None or one.high is None:
        return 0.0, 0.0
    return one.measured - one.low, one.high - one.measured


def _draw_speedup_panel(place: "Axes", members: Sequence[Speedup]) -> None:
    most = max(one.ideal for one in members)
    place.plot([1, most], [1, most], color="#999999", lw=1, zorder=1)
    place.annotate(
        "ideal",
        (most, most),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color="#777777",
    )
    if fit := fit_speedup(members):
        label = f"fitted, exponent {fit.exponent:.2f}"
        reached = fit.scale * most**fit.exponent
        place.plot(
            [1, most],
            [fit.scale, reached],
            color="#777777",
            lw=1,
            ls=(0, (4, 2)),
            zorder=1,
            label=label,
        )
    steps = sorted({one.local_steps for one in members})
    for number, local_steps in enumerate(steps):
        line = [one for one in members if one.local_steps == local_steps]
        measured = np.array([one.measured for one in line])
        spread = np.array([below_and_above(one) for one in line]).T
        place.errorbar(
            [one.ideal for one in line],
            measured,
            yerr=spread.clip(min=0),
            color=OKABE_ITO[number % len(OKABE_ITO)],
            marker="os^Dvp*"[number % 7],
            markersize=5,
            lw=1.2,
            elinewidth=1,
            capsize=2,
            label=f"K = {local_steps:g}",
        )
    place.set_xscale("log", base=2)
    place.set_yscale("log", base=2)
    place.xaxis.set_major_formatter("{x:g}")
    place.yaxis.set_major_formatter("{x:g}")
    place.set_xlabel("ideal speed-up: m K relative to the base")
    place.legend(title="local steps")
