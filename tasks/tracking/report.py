"""The report of a study: table, figures, failures in words, what to run next."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from configs.study import Study
from configs.training import TrainingExperiment
from tasks.runtime.atomic_files import write_atomically
from tasks.tracking.advice import failures, next_steps, untracked, warnings
from tasks.tracking.costs import TotalCost, read_costs, total
from tasks.tracking.figures import FEDERATED_PANELS, draw_curves
from tasks.tracking.history import RunHistory
from tasks.tracking.over_seeds import over_seeds
from tasks.tracking.rates import Speedup
from tasks.tracking.rows import Row, read_points
from tasks.tracking.run_tables import run_tables
from tasks.tracking.scaling_figures import draw_scaling, draw_scaling_split
from tasks.tracking.scaling_page import write_data, write_page, write_speedup_page
from tasks.tracking.scaling_report import scaling_section
from tasks.tracking.scaling_rows import scaling_points
from tasks.tracking.speedup import draw_speedup, fits_of, measure_speedups
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tables import markdown_table, number, percent, seconds
from tasks.tracking.training_figures import TRAINING_PANELS, draw_time_split
from tasks.tracking.training_report import TRAINING_NOTE

_RATE_NOTE = (
    "b is the exponent of the squared gradient norm, |grad f(x_t)|^2 ~ t^b, over the last decade "
    "of rounds, with its 95 % confidence interval; 0 is a floor, of noise or of bias. Delays are "
    "in rounds."
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
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    directory = StudyDirectory(study_dir)
    study = directory.read_study()
    points = read_points(directory)
    rows = [row for _, row in points]
    readable = [(history, row) for history, row in points if history is not None]
    histories = [history for history, _ in readable]
    unit = study.experiment.unit
    ran = [row for _, row in readable if row.state != "predicted"]
    is_training = isinstance(study.experiment, TrainingExperiment)
    panels = TRAINING_PANELS if is_training else FEDERATED_PANELS
    has_curves = draw_curves(histories, panels, directory.curves)
    has_time_split = draw_time_split(rows, directory.time_split)
    scaling = _scaling(directory, study, readable)
    speedups = measure_speedups(study, histories)
    if speedups:
        draw_speedup(speedups, directory.speedup)
        if study.scaling is not None:
            write_speedup_page(study.name, study.description, speedups, directory.scaling_page)
    tables = run_tables(ran, unit)
    sections = [
        f"# {study.name}\n\n{study.description}".rstrip(),
        _states(study, rows),
        scaling,
        "## Runs" if scaling and tables.outcomes else "",
        tables.outcomes,
        tables.alike,
        _RATE_NOTE if any(row.rate is not None for row in rows) else "",
        TRAINING_NOTE if has_time_split else "",
        f"![Curves of {study.name}]({directory.curves.name})" if has_curves else "",
        f"![Where the time goes]({directory.time_split.name})" if has_time_split else "",
        over_seeds(histories),
        _speedup_section(speedups, directory.speedup.name),
        failures(rows, unit),
        tables.further,
        _costs(histories),
        warnings(rows),
        untracked(directory, rows),
        next_steps(directory, study, rows, tracking_uri),
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


def _speedup_section(groups: Mapping[str, Sequence[Speedup]], figure: str) -> str:
    if not groups:
        return ""
    body = [
        [
            rest or "all",
            f"{one.collect:g}",
            f"{one.local_steps:g}",
            f"{one.ideal:.3g}",
            _with_interval(one),
        ]
        for rest, members in groups.items()
        for one in members
    ]
    table = markdown_table(["", "m", "K", "ideal", "measured [95 %]"], body)
    note = (
        "(G of the base / G)², with G the mean squared gradient norm over equally many rounds: m K "
        "where G falls like 1/sqrt(m K T). It is not by how much the rounds may be cut, as fewer "
        "rounds need a larger step."
    )
    fitted = _fitted(groups)
    shown = f"![Measured and ideal speed-up]({figure})"
    return "\n\n".join(filter(None, ["## Speed-up", table, note, fitted, shown]))


def _with_interval(one: Speedup) -> str:
    """Say a speed-up; the base is 1, and of single seeds no interval is known."""
    if one.low is None or one.high is None or one.low == one.high:
        return f"{one.measured:.3g}"
    return f"{one.measured:.3g} [{one.low:.3g}, {one.high:.3g}]"


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


def _costs(histories: Sequence[RunHistory]) -> str:
    """What Slurm accounted for, a run a line, and the sum; nothing for local runs."""
    attempts = {history.job.point: read_costs(history.directory) for history in histories}
    if not any(attempts.values()):
        return ""
    totals = {label: total(costs) for label, costs in attempts.items()}
    is_restarted = any(cost is not None and cost.num_attempts > 1 for cost in totals.values())
    if len(totals) > 1:
        totals["**all**"] = total(cost for costs in attempts.values() for cost in costs)
    columns: list[tuple[str, Callable[[TotalCost], str]]] = [
        ("attempts", lambda cost: str(cost.num_attempts) if is_restarted else ""),
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
