"""Steps of a night: whether it can run, and what came out of it."""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.charging import charge_here
from tasks.slurm.commands import SlurmCli
from tasks.slurm.errors import SlurmError
from tasks.slurm.reservations import blocking
from tasks.steps.launching import asked_for
from tasks.steps.night_schedule import NightSchedule, missed_nights
from tasks.steps.reporting import artifact_key, with_figures
from tasks.tracking.cursor import read_cursor
from tasks.tracking.errors import TrackingError
from tasks.tracking.machine import allocation_of
from tasks.tracking.nightly_comparison import (
    Outcome,
    PointComparison,
    compare_points,
    outcome_of,
    unmeasured,
)
from tasks.tracking.nightly_figure import draw_nights
from tasks.tracking.nightly_history import read_nights
from tasks.tracking.nightly_points import PointGroup, failures, read_points
from tasks.tracking.nightly_record import MARK_PREFIX, VERDICT_TAG, NightRecord, read_night
from tasks.tracking.nightly_report import Tonight, headline, night_report
from tasks.tracking.nightly_statistics import Rule
from tasks.tracking.store import Store, open_store
from tasks.tracking.stored import MetricPoint
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tags import common_tags

REPORT, FIGURE = "nightly.md", "nightly.png"


@dataclass(frozen=True)
class Criteria:
    """What a night is compared by.

    Attributes:
        metrics: Names without ``result/``.
        num_nights: Earlier nights that are compared with, at most.
        rule: What counts as a change.
    """

    metrics: tuple[str, ...]
    num_nights: int
    rule: Rule


@dataclass(frozen=True)
class Judgement:
    """What came out of a night.

    Attributes:
        outcome: What it amounts to; None if it could not be compared.
        message: In one line.
        report: The report; None without one.
    """

    outcome: Outcome | None
    message: str
    report: Path | None


def maintenance(study: Study, now_s: float | None = None) -> str:
    """Say which maintenance keeps a study's jobs from starting.

    Args:
        study: The study.
        now_s: Unix time; default: now.

    Returns:
        Its name and its end; empty if there is none, if the study runs on this machine, or if Slurm
        does not tell (what is wrong then is said when the jobs are submitted).
    """
    if not isinstance(study.launcher, SlurmLauncherConfig):
        return ""
    cli = SlurmCli()
    charge_here(1)
    try:
        reservations = [one for one in cli.reservations() if one.is_maintenance]
        if not reservations:
            return ""
        charge_here(2)
        nodes = cli.nodes()
        default = next((one.name for one in cli.partitions() if one.is_default), "")
        found = [
            blocking(
                resources,
                reservations,
                nodes,
                default_partition=default,
                now_s=time.time() if now_s is None else now_s,
            )
            for resources in asked_for(study, study.launcher)
        ]
    except SlurmError:
        return ""
    in_the_way = [one for one in found if one is not None]
    if not in_the_way:
        return ""
    worst = max(in_the_way, key=lambda one: one.end_s)
    ends = datetime.fromtimestamp(worst.end_s).astimezone()
    return f"maintenance {worst.name} until {ends:%Y-%m-%d %H:%M %Z}"


@task(task_run_name="compare with earlier nights", cache_policy=NO_CACHE)
def judge_night(
    study_dir: Path,
    tracking_uri: str,
    criteria: Criteria,
    schedule: NightSchedule,
    scheduled: datetime,
    late: str,
) -> Judgement:
    """Compare a night that has run with the nights before; report, and store the verdicts.

    Args:
        study_dir: The study's directory, with its ``night.json``.
        tracking_uri: Where its runs are.
        criteria: What to compare by.
        schedule: When nights are due.
        scheduled: Tonight's scheduled start.
        late: That it began late, in words; empty if it did not.

    Returns:
        What came out.

    Raises:
        OSError: A file cannot be read or written.
        DamagedFileError: The record of the night, or of the study, cannot be read.
        ValueError: The directory is of no night.
    """
    record = read_night(study_dir)
    if record is None:
        raise ValueError(f"{study_dir} has no night.json: it was not run for a night")
    study = StudyDirectory(study_dir).read_study()
    try:
        groups = read_points(study_dir, tracking_uri)
        store = open_store(tracking_uri)
        experiment_id = store.experiment(study.name, study.description)
        history = read_nights(
            store,
            experiment_id,
            groups,
            tonight=record.night,
            allocation=allocation_of(study.launcher, record.num_parallel),
            machine=record.machine,
            num_nights=criteria.num_nights,
            since=record.since,
        )
    except (DamagedFileError, TrackingError) as error:
        return Judgement(None, f"not compared with earlier nights: {error}", None)
    tags = common_tags(None)
    commit = tags.get("mlflow.source.git.commit", "")
    compared = compare_points(
        groups,
        history,
        criteria.metrics,
        criteria.rule,
        tonight=record.night,
        commit=commit,
        num_nights=criteria.num_nights,
    )
    tonight = Tonight(
        study=study.name,
        night=record.night,
        directory=study_dir.name,
        commit=commit,
        is_dirty=tags.get("git.dirty") == "true",
        tracking_uri=tracking_uri,
        experiment_id=experiment_id,
        late=late,
        missed=missed_nights(schedule, history.dates(), scheduled, record.night),
    )
    missing = unmeasured(groups, criteria.metrics)
    outcome = outcome_of(groups, compared, missing)
    has_figure = draw_nights(compared, record.night, study_dir / FIGURE)
    report = study_dir / REPORT
    text = night_report(
        tonight,
        outcome,
        compared,
        failures(groups),
        history,
        criteria.rule,
        missing=missing,
        figure=FIGURE if has_figure else "",
    )
    write_atomically(report, text.encode())
    message = headline(outcome, compared, failures(groups), missing)
    create_markdown_artifact(
        key=artifact_key(f"nightly-{study.name}"),
        markdown=with_figures(text, study_dir),
        description=f"{record.night}: {message}",
    )
    told = message
    try:
        run_id = _store(store, study_dir, groups, compared, record, message, outcome)
    except TrackingError as error:
        told += f"; the marks are not in MLflow: {error}"
    else:
        told += _send_report(store, study_dir, run_id)
    return Judgement(outcome, told, report)


def _store(
    store: Store,
    study_dir: Path,
    groups: list[PointGroup],
    compared: list[PointComparison],
    record: NightRecord,
    message: str,
    outcome: Outcome,
) -> str:
    """Put the marks into MLflow: of the night to the study's run, of a point to its runs.

    Returns:
        The study's run; empty if it has none.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    run_id = read_cursor(RunDirectory(study_dir), store.tracking_uri).run_id
    if not run_id:
        return ""
    midnight = datetime.combine(record.night, datetime.min.time(), UTC)
    store.log_points(
        run_id,
        [
            # The night's own time, so that judging twice gives one point.
            MetricPoint(
                f"nightly/{one.metric}/{one.label}"[:250],
                ratio,
                int(1000 * midnight.timestamp()),
                0,
            )
            for one in compared
            if (ratio := one.result.ratio) is not None and math.isfinite(ratio)
        ],
    )
    runs = {group.label: [one.run_id for one in group.finished if one.run_id] for group in groups}
    for label in dict.fromkeys(one.label for one in compared):
        marks = {
            f"{MARK_PREFIX}{one.metric}": str(one.result.verdict)
            for one in compared
            if one.label == label
        }
        for each in runs[label]:
            store.log_tags(each, marks)
    store.log_tags(run_id, {VERDICT_TAG: str(outcome), "watershed.nightly.message": message})
    return run_id


def _send_report(store: Store, study_dir: Path, run_id: str) -> str:
    """Send report and figure; say what was not taken. The marks are there by then."""
    try:
        if run_id:
            store.log_files(run_id, [study_dir / REPORT, study_dir / FIGURE])
    except TrackingError as error:
        return f"; the report is not in MLflow: {error}"
    return ""
