"""What a tracking store holds."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class MetricPoint(NamedTuple):
    """One point of a metric.

    Attributes:
        key: Name of the metric.
        value: Finite.
        timestamp_ms: Unix milliseconds.
        step: The round.
    """

    key: str
    value: float
    timestamp_ms: int
    step: int


class StoredRun(NamedTuple):
    """What MLflow knows of a run.

    Attributes:
        run_id: Its id.
        name: Its name.
        status: RUNNING, FINISHED, FAILED, KILLED or SCHEDULED.
        tags: Name -> text.
        metrics: Name -> last value.
    """

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
