"""Chart views of a study in MLflow: its points side by side, by step and by other clocks.

MLflow folds child runs away, and leaves folded runs out of its charts. Grouping shows them, so each
study gets shared views, kept where MLflow's own "Share view" keeps them: experiment tags
``mlflow.sharedViewState.<key>`` with the page's state in JSON. The format is MLflow's and is not
documented (read in the bundled interface of 3.17.2, seen in a browser); a version that does not
know it any more says so and shows its default view.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from tasks.runtime.metrics import Metric

_PREFIX = "mlflow.sharedViewState."
_BY_STEP = "by-step"
CLOCKS: Mapping[str, Mapping[str, Metric]] = {
    "federated": {"virtual time": Metric.VIRTUAL_S},
    "training": {"wall time": Metric.WALL_S, "tokens": Metric.TOKENS_TOTAL},
}
"""Kind of a study -> what its points are compared by beside steps, most useful first."""


def view_tags(
    parent_run_id: str, axes: Sequence[str], kind: Literal["federated", "training"]
) -> dict[str, str]:
    """Return the experiment tags that keep a study's views.

    Args:
        parent_run_id: The study's run in MLflow.
        axes: Names of the grid's axes; points are grouped by the first.
        kind: Of the study's experiment.

    Returns:
        Tag -> the view's state in JSON.
    """
    group = f"axis.{axes[0]}" if axes else "watershed.config_hash"
    state = {
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
        f"by-{words.replace(' ', '-')}": _x_axis("metric", metric)
        for words, metric in CLOCKS[kind].items()
    }
    return {
        f"{_PREFIX}{_key(parent_run_id, name)}": json.dumps(
            state | {"globalLineChartConfig": x_axis}
        )
        for name, x_axis in x_axes.items()
    }


def _x_axis(key: str, metric: str) -> dict[str, str | int]:
    return {"xAxisKey": key, "selectedXAxisMetricKey": str(metric), "lineSmoothness": 0}


def view_address(experiment_id: str, parent_run_id: str) -> str:
    """Return the part of a view's address behind the MLflow server's.

    Args:
        experiment_id: The study's experiment.
        parent_run_id: The study's run.

    Returns:
        The view by step; with ``by-virtual-time``, or another, in place of ``by-step``, that view.
    """
    key = _key(parent_run_id, _BY_STEP)
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def _key(parent_run_id: str, name: str) -> str:
    return f"{parent_run_id[:12]}-{name}"
