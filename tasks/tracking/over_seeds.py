"""The section of a report over runs that differ in their seed only."""

from collections.abc import Sequence

import numpy as np

from tasks.runtime.metrics import Metric
from tasks.tracking.axes import SEED_AXES, told
from tasks.tracking.history import RunHistory
from tasks.tracking.rates import RateFit, fit_rate_over_seeds
from tasks.tracking.rows import row_of
from tasks.tracking.tables import exponent, markdown_table


def over_seeds(histories: Sequence[RunHistory]) -> str:
    """Write the mean and standard deviation over runs that differ in their seed only.

    Args:
        histories: The runs of a study.

    Returns:
        The section in Markdown; empty where no two finished runs differ in their seed only.
    """
    groups: dict[str, list[RunHistory]] = {}
    for history in histories:
        if history.state == "finished":
            rest = ", ".join(
                told(name, label)
                for name, label in history.job.coordinates.items()
                if name not in SEED_AXES
            )
            groups.setdefault(rest or "all", []).append(history)
    repeated = {rest: members for rest, members in groups.items() if len(members) > 1}
    if not repeated:
        return ""
    head = ["", "seeds", "training loss", "test accuracy", "gradient norm", "rate b"]
    head += ["validation loss", "tokens/s"]
    body = []
    for rest, members in repeated.items():
        rows = [row_of(member) for member in members]
        trainings = [row.training for row in rows if row.training]
        rate = _rate_over_seeds(members)
        body.append(
            [
                rest,
                str(len(members)),
                _mean_and_deviation([row.loss for row in rows]),
                _mean_and_deviation([row.accuracy for row in rows], percent=True),
                _mean_and_deviation([row.grad_norm for row in rows]),
                exponent(rate.exponent, rate.low, rate.high) if rate else "",
                _mean_and_deviation([one.validation_loss for one in trainings]),
                _mean_and_deviation([one.tokens_per_s for one in trainings]),
            ]
        )
    shown = [n for n, name in enumerate(head) if not name or any(line[n] for line in body)]
    table = markdown_table([head[n] for n in shown], [[line[n] for n in shown] for line in body])
    note = "Mean and standard deviation"
    note += (
        "; of b the mean, with its 95 % interval from the spread."
        if "rate b" in [head[n] for n in shown]
        else "."
    )
    return f"## Over seeds\n\n{table}\n\n{note}"


def _rate_over_seeds(members: Sequence[RunHistory]) -> RateFit | None:
    series = [member.series(Metric.TRAIN_GRAD_SQ_NORM) for member in members]
    return fit_rate_over_seeds([(one.rounds, one.values) for one in series])


def _mean_and_deviation(values: Sequence[float | None], *, percent: bool = False) -> str:
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return ""
    mean, deviation = float(np.mean(present)), float(np.std(present, ddof=1))
    if percent:
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    return f"{mean:.4g} ± {deviation:.2g}"
