"""Descriptions of runs in MLflow (``mlflow.note.content``), which it shows as Markdown.

A figure, or a page that the report links, is an address that MLflow's server answers itself,
relative to its page: so it is seen wherever the server is, and after ``mlflow server`` was started
on a local database, too. Figures as data are no way: MLflow takes 8000 characters, and its page
shows no ``data:`` addresses.
"""

import re

from configs.study import Study
from tasks.tracking.addresses import artifact_address
from tasks.tracking.rows import Row
from tasks.tracking.tables import number, percent, scaled, seconds
from tasks.tracking.views import CLOCKS, view_links

MAX_NOTE = 8000
"""Characters of a tag; MLflow would cut the rest itself, in the middle of a table."""
_FILE = re.compile(r"(\[[^\]]*\])\(([\w.-]+)\)")
"""A figure, or a link, whose target is a file beside the report."""
_CUT = "\n\n*Cut here, as MLflow takes 8000 characters: `report.md` among the artifacts has all.*"


def study_note(study: Study) -> str:
    """Describe a study that has begun.

    Args:
        study: The study.
    """
    return f"{study.description}\n\n{_how_to(study)}".strip()


def report_note(study: Study, report: str, experiment_id: str, run_id: str) -> str:
    """Describe a study that is over: its report, with the figures.

    Args:
        study: The study.
        report: In Markdown.
        experiment_id: The study's experiment.
        run_id: The study's run, which has figures and pages as artifacts.

    Returns:
        At most 8000 characters; of a longer report the sections that have room, in their order.
    """
    shown = _FILE.sub(lambda found: f"{found[1]}({artifact_address(found[2], run_id)})", report)
    links = view_links(experiment_id, run_id, study.experiment.kind)
    tail = f"\n\n---\nCompare the points by {links}. {_how_to(study)}"
    if len(shown) + len(tail) <= MAX_NOTE:
        return shown.rstrip() + tail
    room = MAX_NOTE - len(tail) - len(_CUT)
    parts: list[str] = []
    for part in shown.split("\n\n"):
        if sum(map(len, parts)) + 2 * len(parts) + len(part) <= room:
            parts.append(part)
    return "\n\n".join(parts) + _CUT + tail


def point_note(row: Row) -> str:
    """Describe a point that is over.

    Args:
        row: What came out.

    Returns:
        A line with what it came to, then what went wrong and the warnings.
    """
    training = row.training
    measured = {
        "training loss": number(row.loss, 4),
        "validation loss": number(training.validation_loss, 4) if training else "",
        "test accuracy": percent(row.accuracy),
        "gradient norm": number(row.grad_norm, 3),
        "tokens/s": scaled(training.tokens_per_s) if training else "",
        "mean delay": number(row.mean_delay, 3),
        "virtual time": seconds(row.virtual_s),
        "wall time": seconds(row.wall_s),
    }
    told = ", ".join(f"{name} {text}" for name, text in measured.items() if text)
    unit = "train step" if training else "round"
    first = f"**{row.state}** at {unit} {row.rounds}" + (f": {told}" if told else "")
    where = "The whole configuration is `config.yaml` among the artifacts."
    parts = [f"{first}. {where}", row.message, *(f"Warning: {text}" for text in row.warnings)]
    return "\n\n".join(filter(None, parts))[:MAX_NOTE]


def _how_to(study: Study) -> str:
    words, metric = next(iter(CLOCKS[study.experiment.kind].items()))
    return (
        f"In a chart view of your own: settings, X-axis: Metric, `{metric}` compares by {words}. "
        f"By default the x-axis is the step, which is the {study.experiment.unit}."
    )
