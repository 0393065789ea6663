"""What the attempts of runs cost on the cluster, added up."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.runtime.reading import load_record
from tasks.runtime.records import AttemptCost, Costs
from tasks.runtime.run_directory import RunDirectory

_COMPLETED = "COMPLETED"
"""Slurm's state of what has ended well."""


@dataclass(frozen=True)
class TotalCost:
    """What all attempts cost; a sum is None unless it is known of every one of them.

    A sum over some of them would look like the whole, and be too small.

    Attributes:
        num_attempts: Attempts.
        queue_wait_s: Seconds in the queue.
        elapsed_s: Seconds of running.
        node_hours: Node-hours.
        gpu_hours: GPU-hours.
        lost_node_hours: Node-hours computed again after restarts; an attempt that has completed
            lost none.
        max_rss_bytes: The largest that is known.
        cpu_efficiency: Mean of those that are known, weighted by node-hours, in [0, 1] or a little
            above.
        energy_j: Joules; an attempt that did not run needed none.
    """

    num_attempts: int
    queue_wait_s: float | None
    elapsed_s: float | None
    node_hours: float | None
    gpu_hours: float | None
    lost_node_hours: float | None
    max_rss_bytes: int | None
    cpu_efficiency: float | None
    energy_j: float | None

    def metrics(self) -> dict[str, float]:
        """Return what is known, by MLflow's names (``cost/node_hours``, ...)."""
        values: dict[str, float | None] = {
            "cost/attempts": self.num_attempts,
            "cost/queue_wait_s": self.queue_wait_s,
            "cost/elapsed_s": self.elapsed_s,
            "cost/node_hours": self.node_hours,
            "cost/gpu_hours": self.gpu_hours,
            "cost/lost_node_hours": self.lost_node_hours,
            "cost/max_rss_bytes": self.max_rss_bytes,
            "cost/cpu_efficiency": self.cpu_efficiency,
            "cost/energy_j": self.energy_j,
        }
        return {name: float(value) for name, value in values.items() if value is not None}


def read_costs(directory: RunDirectory) -> tuple[AttemptCost, ...]:
    """Read what the attempts of a run cost, those of its real workers included.

    Args:
        directory: The run directory.

    Returns:
        The attempts; none where the run did not run on Slurm.

    Raises:
        OSError: A file cannot be read.
        DamagedFileError: It is cut off, or of another version.
    """
    attempts: list[AttemptCost] = []
    for run in (directory, *directory.workers()):
        with contextlib.suppress(FileNotFoundError):
            attempts += load_record(Costs, run.costs).attempts
    return tuple(attempts)


def total(attempts: Iterable[AttemptCost]) -> TotalCost | None:
    """Add up the attempts of one or many runs.

    Args:
        attempts: The attempts.

    Returns:
        The sums; None without attempts.
    """
    attempts = list(attempts)
    if not attempts:
        return None
    weighed = [
        (attempt.cpu_efficiency, attempt.node_hours)
        for attempt in attempts
        if attempt.cpu_efficiency is not None and attempt.node_hours
    ]
    weight = sum(hours for _, hours in weighed)
    peaks = [attempt.max_rss_bytes for attempt in attempts if attempt.max_rss_bytes is not None]
    ran = [attempt for attempt in attempts if attempt.elapsed_s != 0]
    return TotalCost(
        num_attempts=len(attempts),
        queue_wait_s=_sum(attempt.queue_wait_s for attempt in attempts),
        elapsed_s=_sum(attempt.elapsed_s for attempt in attempts),
        node_hours=_sum(attempt.node_hours for attempt in attempts),
        gpu_hours=_sum(attempt.gpu_hours for attempt in attempts),
        lost_node_hours=_sum(map(_lost_node_hours, attempts)),
        max_rss_bytes=max(peaks, default=None),
        cpu_efficiency=sum(e * h for e, h in weighed) / weight if weight else None,
        energy_j=_sum(attempt.energy_j for attempt in ran),
    )


def _lost_node_hours(attempt: AttemptCost) -> float | None:
    if attempt.lost_node_hours is None and attempt.state == _COMPLETED:
        return 0.0
    return attempt.lost_node_hours


def _sum(values: Iterable[float | None]) -> float | None:
    known: list[float] = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return sum(known) if known else None
