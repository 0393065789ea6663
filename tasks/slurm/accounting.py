"""What the attempts of a run cost: the accounting's rows and the attempts' own files, joined.

*Lost* is the time at the end of an attempt whose work no checkpoint and no result holds: from the
newest checkpoint that the attempt saved (its start, if it saved none) to its end. The next attempt
computes that again. An attempt that finished has lost nothing; of one that runs, nothing is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.runtime.records import AttemptCost, Costs
from tasks.slurm.attempts import Attempt
from tasks.slurm.sightings import Accounted

_HOUR_S = 3600.0
_Key = tuple[str, int]


@dataclass(frozen=True)
class Submitted:
    """One submission of a run.

    Attributes:
        number: From 1.
        slurm_job: Slurm's id: ``12``, or ``12_3`` in an array.
        submitted_s: Unix time.
    """

    number: int
    slurm_job: str
    submitted_s: float


@dataclass(frozen=True)
class Asked:
    """What a run's jobs asked for: what they had, where the accounting does not tell.

    Attributes:
        nodes: Nodes.
        gpus: GPUs, of all nodes.
        num_sharing: Runs that share one job; each bears its part of nodes, GPUs and energy.
    """

    nodes: int
    gpus: int = 0
    num_sharing: int = 1


def costs(
    submitted: Sequence[Submitted],
    rows: Sequence[Accounted],
    attempts: Sequence[Attempt],
    *,
    asked: Asked,
    earlier: Costs | None = None,
) -> Costs:
    """Say what the attempts of a run cost.

    Args:
        submitted: The run's submissions.
        rows: The accounting's incarnations of their jobs, oldest first; empty without accounting.
        attempts: The attempts by their own files.
        asked: What the jobs asked for.
        earlier: What was said before: by now an attempt's checkpoints may be gone.

    Returns:
        One entry for each incarnation that was started, oldest first; what nobody tells is None.
    """
    numbers = {one.slurm_job: one for one in submitted}
    known = {(cost.slurm_job, cost.restarts): cost for cost in (earlier or Costs()).attempts}
    row_of: dict[_Key, Accounted] = {}
    for row in rows:
        restarts = sum(slurm_job == row.slurm_job for slurm_job, _ in row_of)
        row_of[row.slurm_job, restarts] = row
    attempt_of = {(a.started.slurm_job, a.started.restarts): a for a in attempts}
    found = []
    for key in dict.fromkeys([*row_of, *attempt_of]):
        incarnation = _Incarnation(
            key, row_of.get(key), attempt_of.get(key), numbers.get(key[0]), asked
        )
        if incarnation.has_begun:
            found.append((incarnation.started_s, incarnation.cost(known.get(key))))
    found.sort(key=lambda pair: pair[0])
    return Costs(attempts=tuple(cost for _, cost in found))


@dataclass(frozen=True)
class _Incarnation:
    """What is known of one incarnation of a job: a row, an attempt's files, or both."""

    key: _Key
    row: Accounted | None
    attempt: Attempt | None
    submitted: Submitted | None
    asked: Asked

    @property
    def has_begun(self) -> bool:
        return self.attempt is not None or (self.row is not None and bool(self.row.nodes))

    @property
    def started_s(self) -> float:
        if self.row is not None and self.row.started_s is not None:
            return self.row.started_s
        return self.attempt.started_s if self.attempt is not None else 0.0

    @property
    def elapsed_s(self) -> float:
        if self.row is not None:
            return self.row.elapsed_s
        return self.attempt.last_s - self.attempt.started_s if self.attempt is not None else 0.0

    @property
    def lost_s(self) -> float | None:
        """Seconds at its end that are lost; None if it runs, or nothing tells."""
        row_end_s = self.row.ended_s if self.row is not None else None
        if self.attempt is None:  # its program never began
            return self.elapsed_s if row_end_s is not None else None
        if self.attempt.saved_s is None or not (self.attempt.has_ended or row_end_s):
            return None
        end_s = self.attempt.last_s
        if self.attempt.exit is None and row_end_s is not None:
            end_s = max(end_s, row_end_s)  # until Slurm noticed that the node was gone
        return min(max(0.0, end_s - self.attempt.saved_s), self.elapsed_s)

    @property
    def queue_wait_s(self) -> float | None:
        """Seconds from when nothing but resources was missing; None if that is not told."""
        since_s: float | None = None
        if self.row is not None and self.row.started_s is not None:
            since_s = self.row.eligible_s or self.row.submitted_s
        elif self.submitted is not None and self.key[1] == 0:  # later ones waited since a requeue
            since_s = self.submitted.submitted_s
        return None if since_s is None else max(0.0, self.started_s - since_s)

    @property
    def number(self) -> int:
        """Number of its submission."""
        if self.attempt is not None:
            return self.attempt.started.submission
        return self.submitted.number if self.submitted is not None else 1

    def cost(self, earlier: AttemptCost | None) -> AttemptCost:
        """Put together what it cost."""
        row, sharing = self.row, self.asked.num_sharing
        num_nodes = row.num_nodes if row is not None and row.num_nodes else self.asked.nodes
        num_gpus = row.num_gpus if row is not None else self.asked.gpus
        partition = row.partition if row is not None else ""
        if not partition and self.attempt is not None:
            partition = self.attempt.started.partition
        lost = earlier.lost_node_hours if earlier is not None else None
        if self.lost_s is not None:
            lost = num_nodes * self.lost_s / _HOUR_S / sharing
        return AttemptCost(
            submission=self.number,
            slurm_job=self.key[0],
            restarts=self.key[1],
            state=row.state.value if row is not None else "",
            nodes=num_nodes,
            partition=partition,
            queue_wait_s=self.queue_wait_s,
            elapsed_s=self.elapsed_s,
            node_hours=num_nodes * self.elapsed_s / _HOUR_S / sharing,
            gpu_hours=num_gpus * self.elapsed_s / _HOUR_S / sharing,
            max_rss_bytes=row.max_rss_bytes if row is not None else None,
            cpu_efficiency=_efficiency(row) if row is not None else None,
            energy_j=row.energy_j / sharing if row and row.energy_j is not None else None,
            lost_node_hours=lost,
        )


def _efficiency(row: Accounted) -> float | None:
    allocated_s = row.num_cpus * row.elapsed_s
    return row.cpu_s / allocated_s if row.cpu_s is not None and allocated_s else None
