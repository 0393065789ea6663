"""Chart views of a study in MLflow: its points side by side, by round and by virtual time.

MLflow folds child runs away, and leaves folded runs out of its charts. Grouping shows them, so each
study gets two shared views, kept where MLflow's own "Share view" keeps them: experiment tags
``mlflow.sharedViewState.<key>`` with the page's state in JSON. The format is MLflow's and is not
documented (read in the bundled interface of 3.17.2, seen in a browser); a version that does not
know it any more says so and shows its default view.
"""

import json
from collections.abc import Sequence

from tasks.runtime.metrics import Metric

_PREFIX = "mlflow.sharedViewState."
_X_AXES = {
    "by-round": {"xAxisKey": "step", "selectedXAxisMetricKey": "", "lineSmoothness": 0},
    "by-virtual-time": {
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": str(Metric.VIRTUAL_S),
        "lineSmoothness": 0,
    },
}


def view_tags(parent_run_id: str, axes: Sequence[str]) -> dict[str, str]:
    """Return the experiment tags that keep a study's views.

    Args:
        parent_run_id: The study's run in MLflow.
        axes: Names of the grid's axes; points are grouped by the first.

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
    return {
        f"{_PREFIX}{_key(parent_run_id, name)}": json.dumps(
            state | {"globalLineChartConfig": x_axis}
        )
        for name, x_axis in _X_AXES.items()
    }


def view_address(experiment_id: str, parent_run_id: str) -> str:
    """Return the part of a view's address behind the MLflow server's.

    Args:
        experiment_id: The study's experiment.
        parent_run_id: The study's run.

    Returns:
        The view by round; with ``by-virtual-time`` in it instead of ``by-round``, that view.
    """
    key = _key(parent_run_id, "by-round")
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def _key(parent_run_id: str, name: str) -> str:
    return f"{parent_run_id[:12]}-{name}"
