"""The report of a study: table, figures, failures in words, what to run next."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from configs.federated import FederatedExperiment
from configs.study import Study
from configs.training import TrainingExperiment
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.metrics import Metric
from tasks.tracking.addresses import opening_command, server_address
from tasks.tracking.axes import SEED_AXES, short_name, told
from tasks.tracking.costs import TotalCost, read_costs, total
from tasks.tracking.figures import FEDERATED_PANELS, draw_curves
from tasks.tracking.history import GOOD, RunHistory, read_history
from tasks.tracking.rates import RateFit, Speedup, fit_rate_over_seeds
from tasks.tracking.rows import Row, row_of
from tasks.tracking.scaling_figures import draw_scaling, draw_scaling_split
from tasks.tracking.scaling_page import write_data, write_page, write_speedup_page
from tasks.tracking.scaling_report import scaling_section
from tasks.tracking.scaling_rows import scaling_points
from tasks.tracking.speedup import draw_speedup, fits_of, measure_speedups
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tables import Column, markdown_table, number, percent, seconds
from tasks.tracking.training_figures import TRAINING_PANELS, draw_time_split
from tasks.tracking.training_report import TRAINING_NOTE, training_columns
from tasks.tracking.views import CLOCKS

_RATE_NOTE = (
    "b is the exponent of the mean squared gradient norm, (1/T) sum |grad f|^2 ~ T^b, over the "
    "last decade of rounds, with its 95 % confidence interval; theory has -1/2 for a run that "
    "converges, and 0 is a floor. Delays are in rounds."
)


def write_report(study_dir: Path, *, tracking_uri: str | None = None) -> Path:
    """Write ``report.md`` and its figures from what the runs have left so far.

    Args:
        study_dir: The study's directory.
        tracking_uri: Where its runs are tracked, for the command that shows them.

    Returns:
        The report.

    Raises:
        OSError: A file cannot be read or written.
        ValidationError: A file is not what it should be.
    """
    directory = StudyDirectory(study_dir)
    study = directory.read_study()
    histories = [read_history(point) for point in directory.points()]
    rows = [row_of(history) for history in histories]
    ran = [row for row in rows if row.state != "predicted"]
    is_training = isinstance(study.experiment, TrainingExperiment)
    panels = TRAINING_PANELS if is_training else FEDERATED_PANELS
    has_curves = draw_curves(histories, panels, directory.curves)
    has_time_split = draw_time_split(rows, directory.time_split)
    scaling = _scaling(directory, study, list(zip(histories, rows, strict=True)))
    speedups = measure_speedups(study, histories)
    if speedups:
        draw_speedup(speedups, directory.speedup)
        if study.scaling is not None:
            write_speedup_page(study.name, study.description, speedups, directory.scaling_page)
    sections = [
        f"# {study.name}\n\n{study.description}".rstrip(),
        _states(study, rows),
        scaling,
        _table(ran, _columns(ran, study.experiment.unit)),
        _RATE_NOTE if any(row.rate is not None for row in rows) else "",
        TRAINING_NOTE if has_time_split else "",
        f"![Curves of {study.name}]({directory.curves.name})" if has_curves else "",
        f"![Where the time goes]({directory.time_split.name})" if has_time_split else "",
        _over_seeds(histories),
        _speedup_section(speedups, directory.speedup.name),
        _failures(rows, study.experiment.unit),
        _costs(histories),
        _warnings(rows),
        _next(directory, study, rows, tracking_uri),
    ]
    text = "\n\n".join(section for section in sections if section) + "\n"
    write_atomically(directory.report, text.encode())
    return directory.report


def _scaling(
    directory: StudyDirectory, study: Study, runs: Sequence[tuple[RunHistory, Row]]
) -> str:
    """Draw what a scaling study of trainings compares, and write its section."""
    if study.scaling is None or study.experiment.kind != "training":
        return ""
    points = scaling_points(study, study.scaling, runs)
    published = study.scaling.published
    figures = {}
    if draw_scaling(points, published, directory.scaling):
        figures["TFLOPS per device and efficiency over devices"] = directory.scaling.name
    if draw_scaling_split(points, published, directory.scaling_split):
        figures["Where the time of a train step goes"] = directory.scaling_split.name
    has_page = write_page(study.name, study.description, points, published, directory.scaling_page)
    write_data(points, directory.scaling_data)
    page = directory.scaling_page.name if has_page else ""
    return scaling_section(study.scaling, points, figures=figures, page=page)


def _states(study: Study, rows: Sequence[Row]) -> str:
    num_points = int(np.prod([len(axis) for axis in study.grid.values()]))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    if num_points > len(rows):
        counts["waiting"] = counts.get("waiting", 0) + num_points - len(rows)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{num_points} run{'s' if num_points > 1 else ''}: {told}."


def _columns(rows: Sequence[Row], unit: str) -> list[Column]:
    """What varies, the state if any run has not finished, and every measure that some run has."""
    axes = _varying(rows)
    columns = [(short_name(axis), _coordinate(axis)) for axis in axes]
    columns = columns or [("run", lambda row: row.label)]
    if any(row.state != "finished" for row in rows):
        columns.append(("state", lambda row: row.state))
    measures: list[Column] = [
        (f"{unit}s", lambda row: str(row.rounds)),
        ("training loss", lambda row: number(row.loss, 4)),
        ("test accuracy", lambda row: percent(row.accuracy)),
        ("gradient norm", lambda row: number(row.grad_norm, 3)),
        ("rate b", lambda row: _rate(row.rate, row.rate_low, row.rate_high)),
        ("mean delay", lambda row: number(row.mean_delay, 3)),
        ("max delay", lambda row: number(row.max_delay, 4)),
        ("refused", lambda row: str(row.num_refused or "")),
        ("dropped", lambda row: str(row.num_dropped or "")),
        *training_columns(rows, axes),
        ("virtual time", lambda row: seconds(row.virtual_s)),
        ("wall time", lambda row: seconds(row.wall_s)),
    ]
    return columns + [column for column in measures if any(column[1](row) for row in rows)]


def _coordinate(axis: str) -> Callable[[Row], str]:
    return lambda row: row.coordinates.get(axis, "")


def _varying(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.coordinates))
    return [name for name in names if len({row.coordinates.get(name) for row in rows}) > 1]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    if not rows:
        return ""
    return markdown_table(
        [name for name, _ in columns], [[text(row) for _, text in columns] for row in rows]
    )


def _rate(rate: float | None, low: float | None, high: float | None) -> str:
    return "" if rate is None else f"{rate:.2f} [{low:.2f}, {high:.2f}]"


def _over_seeds(histories: Sequence[RunHistory]) -> str:
    """Mean and standard deviation over runs that differ in their seed only."""
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
                _rate(rate.exponent, rate.low, rate.high) if rate else "",
                _mean_and_deviation([one.validation_loss for one in trainings]),
                _mean_and_deviation([one.tokens_per_s for one in trainings]),
            ]
        )
    shown = [n for n, name in enumerate(head) if not name or any(line[n] for line in body)]
    table = markdown_table([head[n] for n in shown], [[line[n] for n in shown] for line in body])
    note = "Mean and standard deviation"
    note += "; b is fitted to the mean over seeds." if "rate b" in [head[n] for n in shown] else "."
    return f"## Over seeds\n\n{table}\n\n{note}"


def _rate_over_seeds(members: Sequence[RunHistory]) -> RateFit | None:
    series = [member.series(Metric.TRAIN_GRAD_SQ_NORM) for member in members]
    return fit_rate_over_seeds([(one.rounds, one.values) for one in series], seed=0)


def _mean_and_deviation(values: Sequence[float | None], *, percent: bool = False) -> str:
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return ""
    mean, deviation = float(np.mean(present)), float(np.std(present, ddof=1))
    if percent:
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    return f"{mean:.4g} ± {deviation:.2g}"


def _speedup_section(groups: Mapping[str, Sequence[Speedup]], figure: str) -> str:
    if not groups:
        return ""
    body = [
        [
            rest or "all",
            f"{one.collect:g}",
            f"{one.local_steps:g}",
            f"{one.ideal:.3g}",
            f"{one.measured:.3g} [{one.low:.3g}, {one.high:.3g}]",
        ]
        for rest, members in groups.items()
        for one in members
    ]
    table = markdown_table(["", "m", "K", "ideal", "measured [over seeds]"], body)
    note = (
        "Since the mean squared gradient norm G falls like 1/sqrt(m K T), a run stands after T "
        "rounds where the base stands after (G of the base / G)^2 times as many."
    )
    fitted = _fitted(groups)
    shown = f"![Measured and ideal speed-up]({figure})"
    return "\n\n".join(filter(None, ["## Speed-up", table, note, fitted, shown]))


def _fitted(groups: Mapping[str, Sequence[Speedup]]) -> str:
    """Say how close to linear the speed-up is, in m K and in each of the two alone."""
    lines = []
    for rest, members in groups.items():
        told = [
            f"{'(m K)' if name == 'm K' else name}^p with p = {fit.exponent:.2f} "
            f"[{fit.low:.2f}, {fit.high:.2f}]"
            for name, fit in fits_of(members).items()
        ]
        if told:
            lines.append(f"- {rest or 'fitted'}: {', '.join(told)}")
    head = "Fitted power laws of the speed-up; p = 1 is linear (95 % confidence interval):\n\n"
    return head + "\n".join(lines) if lines else ""


def _failures(rows: Sequence[Row], unit: str) -> str:
    told = [
        f"- **{row.label}** {row.state} at {unit} {row.rounds}: {row.message or 'no reason given'}"
        for row in rows
        if row.state in {"failed", "interrupted"}
    ]
    return "## What went wrong\n\n" + "\n".join(told) if told else ""


def _costs(histories: Sequence[RunHistory]) -> str:
    """What Slurm accounted for, a run a line, and the sum; nothing for local runs."""
    attempts = {history.job.point: read_costs(history.directory) for history in histories}
    if not any(attempts.values()):
        return ""
    totals = {label: total(costs) for label, costs in attempts.items()}
    if len(totals) > 1:
        totals["**all**"] = total(cost for costs in attempts.values() for cost in costs)
    columns: list[tuple[str, Callable[[TotalCost], str]]] = [
        ("attempts", lambda cost: str(cost.num_attempts)),
        ("in the queue", lambda cost: seconds(cost.queue_wait_s)),
        ("running", lambda cost: seconds(cost.elapsed_s)),
        ("node-hours", lambda cost: number(cost.node_hours, 3)),
        ("GPU-hours", lambda cost: number(cost.gpu_hours or None, 3)),
        ("of these lost", lambda cost: number(cost.lost_node_hours or None, 3)),
        ("peak memory", lambda cost: _mebibytes(cost.max_rss_bytes)),
        ("CPU efficiency", lambda cost: percent(cost.cpu_efficiency)),
        ("energy", lambda cost: "" if cost.energy_j is None else f"{cost.energy_j:.3g} J"),
    ]
    known = [(label, cost) for label, cost in totals.items() if cost is not None]
    shown = [(name, text) for name, text in columns if any(text(cost) for _, cost in known)]
    table = markdown_table(
        ["run", *(name for name, _ in shown)],
        [[label, *(text(cost) for _, text in shown)] for label, cost in known],
    )
    note = "As Slurm accounts for it; lost is what restarts had to compute again."
    return f"## What it cost\n\n{table}\n\n{note}"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f} MiB"


def _warnings(rows: Sequence[Row]) -> str:
    labels: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            labels.setdefault(warning, []).append(row.label)
    told = [
        f"- {warning} ({_some(where)})" if len(rows) > 1 else f"- {warning}"
        for warning, where in labels.items()
    ]
    return "## Warnings\n\n" + "\n".join(told) if told else ""


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(labels[:3]) + more


def _next(
    directory: StudyDirectory, study: Study, rows: Sequence[Row], tracking_uri: str | None
) -> str:
    where = os.path.relpath(directory.path)
    told = []
    if failed := [row for row in rows if row.state == "failed"]:
        told.append(f"Look at a failure: `watershed show {os.path.relpath(failed[0].directory)}`")
    if any(row.state not in GOOD for row in rows) or not rows:
        told.append(f"Continue what has not finished: `watershed resume {where}`")
    refused = [row.label for row in rows if row.num_refused]
    if refused and isinstance(study.experiment, FederatedExperiment):
        told.append(
            f"Returns were refused as not finite in {_some(refused)}: try half the rate, `--set "
            f"worker.lr={study.experiment.worker.lr / 2:g}`"
        )
    if floors := [row.label for row in rows if row.rate_high is not None and row.rate_high >= 0]:
        told.append(
            f"No descent of the gradient norm is certain in {_some(floors)} (the interval of b "
            "reaches 0). Noise or bias? Halve `algorithm.server_lr`: a floor of noise falls with "
            "it, one of bias stays"
        )
    is_measured = any(row.state != "predicted" for row in rows)
    if len(rows) > 1 and is_measured and not any(name in SEED_AXES for name in study.grid):
        told.append(
            "One seed a point does not tell a difference from chance: add "
            + ("`repeats: 3`" if study.scaling else "`seed: [0, 1, 2]` to the grid")
        )
    if tracking_uri:
        told.append(_how_to_compare(study, tracking_uri))
    return "## What to run next\n\n" + "\n".join(f"- {text}." for text in told) if told else ""


def _how_to_compare(study: Study, tracking_uri: str) -> str:
    words, metric = next(iter(CLOCKS[study.experiment.kind].items()))
    clock = f"X-axis: Metric, `{metric}` compares by {words} instead of {study.experiment.unit}s"
    if server := server_address(tracking_uri):
        return f"Compare in MLflow: {server}, experiment `{study.name}`; {clock}"
    return (
        f"Compare in MLflow: `{opening_command(tracking_uri)}`, experiment `{study.name}`; {clock}"
    )
