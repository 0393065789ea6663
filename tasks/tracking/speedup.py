"""Linear speed-up: which configurations of a study it compares, and the figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.arrivals import ConstantSteps, LocalSteps, PerWorkerSteps, UniformSteps
from configs.federated import FederatedExperiment
from configs.study import Study
from tasks.runtime.metrics import Metric
from tasks.tracking.axes import SEED_AXES, told
from tasks.tracking.figures import OKABE_ITO, STYLE
from tasks.tracking.history import RunHistory
from tasks.tracking.rates import Speedup, mean_square_gradient, speedups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    scaling = {name for name, axis in study.grid.items() if _scales(name, axis)}
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
        experiment = history.job.experiment
        if not isinstance(experiment, FederatedExperiment):
            continue
        is_real = experiment.arrivals.kind == "slurm"  # then K is a matter of time
        steps = None if is_real else _mean_steps(experiment.local_steps)
        series = history.series(Metric.TRAIN_GRAD_SQ_NORM)
        mean_square = mean_square_gradient(series.rounds, series.values, until)
        if steps is None or mean_square is None:
            continue
        rest = ", ".join(
            told(name, label)
            for name, label in history.job.coordinates.items()
            if name not in scaling | SEED_AXES
        )
        configuration = (float(experiment.algorithm.collect), steps)
        groups.setdefault(rest, {}).setdefault(configuration, []).append(mean_square)
    return {
        rest: speedups(measured)
        for rest, measured in groups.items()
        if len({collect * steps for collect, steps in measured}) > 1
    }


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


def _mean_steps(local_steps: LocalSteps) -> float | None:
    """K of the configuration; None if it follows from the clock."""
    if isinstance(local_steps, ConstantSteps):
        return float(local_steps.steps)
    if isinstance(local_steps, UniformSteps):
        return (local_steps.low + local_steps.high) / 2
    if isinstance(local_steps, PerWorkerSteps):
        return float(np.mean(local_steps.steps))
    return None


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
    steps = sorted({one.local_steps for one in members})
    for number, local_steps in enumerate(steps):
        line = [one for one in members if one.local_steps == local_steps]
        measured = np.array([one.measured for one in line])
        spread = np.array(
            [[one.measured - one.low for one in line], [one.high - one.measured for one in line]]
        )
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
