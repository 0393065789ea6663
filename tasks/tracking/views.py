"""Chart views of a study in MLflow: its points side by side, by step and by other clocks.

MLflow folds child runs away, and leaves folded runs out of its charts. Grouping shows them, so each
study gets shared views, kept where MLflow's own "Share view" keeps them: experiment tags
``mlflow.sharedViewState.<key>`` with the page's state in JSON. The format is MLflow's and is not
documented (read in the bundled interface of 3.17.2, seen in a browser); a version that does not
know it any more says so and shows its default view.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal
from urllib.parse import quote

from configs.tracked_names import tracked_name
from tasks.runtime.metrics import Metric

_PREFIX = "mlflow.sharedViewState."
_OURS = re.compile(rf"{re.escape(_PREFIX)}([0-9a-f]{{12}})-by-[a-z-]+")
"""Tag of a view that we keep; those that a person shares have other keys."""
_BY_STEP = "by-step"
_BY_GRID = "by-grid"
_MOST_AXES = 10
CLOCKS: Mapping[str, Mapping[str, Metric]] = {
    "federated": {"virtual time": Metric.VIRTUAL_S},
    "training": {"wall time": Metric.WALL_S, "tokens": Metric.TOKENS_TOTAL},
}
"""Kind of a study -> what its points are compared by beside steps, most useful first."""
RESULTS: Mapping[str, Sequence[str]] = {
    "federated": ("result/train_loss",),
    "training": ("result/tokens_per_s", "result/train_loss"),
}
"""Kind of a study -> the last axes of its parallel coordinates; every run that has ended has them.
A run that lacks one, such as an accuracy that was not measured, would not be drawn at all."""


def view_tags(
    parent_run_id: str,
    axes: Sequence[str],
    kind: Literal["federated", "training"],
    parameters: Sequence[str] = (),
) -> dict[str, str]:
    """Return the experiment tags that keep a study's views.

    Args:
        parent_run_id: The study's run in MLflow.
        axes: Names of the grid's axes; points are grouped by the first.
        kind: Of the study's experiment.
        parameters: What varies from point to point, the axes of the parallel coordinates; without
            any there is no such view.

    Returns:
        Tag -> the view's state in JSON.
    """
    group = tracked_name(f"axis.{axes[0]}") if axes else "watershed.config_hash"
    state: dict[str, object] = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": group}],
        },
        "useGroupedValuesInCharts": False,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
    }
    x_axes = {_BY_STEP: _x_axis("step", "")} | {
        _by(words): _x_axis("metric", metric) for words, metric in CLOCKS[kind].items()
    }
    views = {name: state | {"globalLineChartConfig": x_axis} for name, x_axis in x_axes.items()}
    if parameters:
        views[_BY_GRID] = state | _parallel_coordinates(parameters, kind)
    return {
        f"{_PREFIX}{_key(parent_run_id, name)}": json.dumps(view) for name, view in views.items()
    }


def _parallel_coordinates(
    parameters: Sequence[str], kind: Literal["federated", "training"]
) -> dict[str, object]:
    """Put one chart above MLflow's own: a line a run, through its parameters and results.

    MLflow draws no such chart of grouped runs once a parameter is a text, and leaves runs out that
    lack one of its axes: so nothing is grouped here. Runs sorted by a result do not stand
    folded below their parent, as those sorted by their start do.
    """
    metrics = RESULTS[kind]
    section, chart = "watershed-grid", "watershed-grid-parallel"
    return {
        "groupBy": None,
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": kind == "federated",  # the best first
        "compareRunSections": [
            {
                "uuid": section,
                "name": "grid",
                "display": True,
                "isReordered": True,
                "columns": 1,
                "cardHeight": 420,
            }
        ],
        "compareRunCharts": [
            {
                "type": "PARALLEL",
                "uuid": chart,
                "metricSectionId": section,
                "isGenerated": False,
                "deleted": False,
                "selectedParams": [tracked_name(one) for one in parameters[:_MOST_AXES]],
                "selectedMetrics": list(metrics),
                "showAllRuns": True,
            }
        ],
        "isAccordionReordered": True,
    }


def _x_axis(key: str, metric: str) -> dict[str, str | int]:
    return {"xAxisKey": key, "selectedXAxisMetricKey": str(metric), "lineSmoothness": 0}


def view_address(experiment_id: str, parent_run_id: str) -> str:
    """Return the part of a view's address behind the MLflow server's.

    Args:
        experiment_id: The study's experiment.
        parent_run_id: The study's run.

    Returns:
        The view by step; with ``by-virtual-time``, ``by-grid``, or another, in place of
        ``by-step``, that view.
    """
    key = _key(parent_run_id, _BY_STEP)
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def view_links(
    experiment_id: str, parent_run_id: str, kind: Literal["federated", "training"]
) -> str:
    """Return links to a study's views, in Markdown, for a page of the MLflow server.

    Args:
        experiment_id: The study's experiment.
        parent_run_id: The study's run.
        kind: Of the study's experiment.
    """
    names = {"step": _BY_STEP} | {words: _by(words) for words in CLOCKS[kind]}
    names |= {"grid (parallel coordinates)": _BY_GRID}
    base = view_address(experiment_id, parent_run_id).removeprefix("/")
    return ", ".join(f"[{words}]({base.replace(_BY_STEP, name)})" for words, name in names.items())


def views_by_run(tags: Iterable[str]) -> dict[str, list[str]]:
    """Find the views that are kept in an experiment.

    Args:
        tags: Names of the experiment's tags.

    Returns:
        The first 12 characters of a study's run -> its tags.
    """
    found: dict[str, list[str]] = {}
    for tag in tags:
        if match := _OURS.fullmatch(tag):
            found.setdefault(match[1], []).append(tag)
    return found


def without_views(note: str, experiment_id: str, parent_run_id: str) -> str:
    """Replace the links to a study's views by one that needs no view.

    MLflow would lead from a view that is gone to another page, without its points.

    Args:
        note: A text with ``view_links``.
        experiment_id: The study's experiment.
        parent_run_id: The study's run.

    Returns:
        The text with a link to the charts of the points: by step, not grouped.
    """
    for kind in ("federated", "training"):
        links = view_links(experiment_id, parent_run_id, kind)
        plain = _address_without_view(experiment_id, parent_run_id, kind)
        note = note.replace(links, f"[step]({plain})")
    return note


def _address_without_view(
    experiment_id: str, parent_run_id: str, kind: Literal["federated", "training"]
) -> str:
    """Return the charts of runs in an order in which they do not stand folded."""
    facets = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "orderByKey": f"metrics.`{RESULTS[kind][0]}`",
        "orderByAsc": str(kind == "federated").lower(),
    }
    asked = "&".join(f"{name}={quote(text, safe='')}" for name, text in facets.items())
    return f"#/experiments/{experiment_id}/runs?{asked}&compareRunsMode=CHART"


def _by(words: str) -> str:
    return f"by-{words.replace(' ', '-')}"


def _key(parent_run_id: str, name: str) -> str:
    return f"{parent_run_id[:12]}-{name}"
