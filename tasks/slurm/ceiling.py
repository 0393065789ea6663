"""What batches cost at most: every job to its time limit, none of them run again."""

from collections.abc import Iterable
from dataclasses import dataclass

from configs.launchers import SlurmResources, time_limit_s
from tasks.slurm.plan import Batch


@dataclass(frozen=True)
class Ceiling:
    """The most that batches cost if no job is run again.

    Attributes:
        num_points: Runs.
        num_jobs: Jobs of Slurm; each task of an array is one.
        node_hours: Nodes times the time limit; a node counts whole, also where it is shared.
        cpu_hours: CPUs times the time limit; those asked for, also where the job has whole nodes.
        gpu_hours: GPUs times the time limit.
    """

    num_points: int = 0
    num_jobs: int = 0
    node_hours: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0

    def __add__(self, other: "Ceiling") -> "Ceiling":
        return Ceiling(
            self.num_points + other.num_points,
            self.num_jobs + other.num_jobs,
            self.node_hours + other.node_hours,
            self.cpu_hours + other.cpu_hours,
            self.gpu_hours + other.gpu_hours,
        )


def ceiling(batches: Iterable[Batch]) -> Ceiling:
    """Add up what batches cost at most.

    Args:
        batches: The batches.

    Returns:
        The sum; all zero for no batch.
    """
    return sum(map(_ceiling_of, batches), Ceiling())


def _ceiling_of(batch: Batch) -> Ceiling:
    resources = batch.jobs[0].resources or SlurmResources()
    num_jobs = len(batch.jobs) if batch.mode == "array" else 1
    node_hours = num_jobs * resources.nodes * time_limit_s(resources.time_limit) / 3600
    return Ceiling(
        num_points=len(batch.jobs),
        num_jobs=num_jobs,
        node_hours=node_hours,
        cpu_hours=node_hours * resources.tasks_per_node * resources.cpus_per_task,
        gpu_hours=node_hours * resources.gpus_per_node,
    )
