"""What batches cost at most, against sums by hand."""

from pathlib import Path

import pytest

from configs.launchers import SlurmResources
from tasks.slurm.ceiling import Ceiling, ceiling
from tasks.slurm.plan import Batch, BatchMode, JobPlan

RESOURCES = SlurmResources(
    nodes=2, tasks_per_node=4, cpus_per_task=8, gpus_per_node=4, time_limit="1:30:00"
)


def _batch(mode: BatchMode, num_jobs: int, resources: SlurmResources | None = RESOURCES) -> Batch:
    jobs = tuple(
        JobPlan(name="p", module="tasks.engine", run_dir=Path(f"/{n}"), resources=resources)
        for n in range(num_jobs)
    )
    return Batch(mode=mode, jobs=jobs, directory=Path("/batch"))


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        # 2 nodes x 1.5 h; 32 CPUs and 4 GPUs a node
        (_batch("single", 1), Ceiling(1, 1, 3.0, 96.0, 12.0)),
        (_batch("array", 10), Ceiling(10, 10, 30.0, 960.0, 120.0)),
        (_batch("allocation", 10), Ceiling(10, 1, 3.0, 96.0, 12.0)),
        (_batch("array", 3, resources=None), Ceiling(3, 3, 3.0, 3.0, 0.0)),
    ],
)
def test_a_batch_costs_its_jobs_to_their_limits(batch: Batch, expected: Ceiling) -> None:
    """Tasks of an array count each; the points of an allocation share one job."""
    assert ceiling([batch]) == expected


def test_costs_add_up() -> None:
    """Several batches cost their sum; none costs nothing."""
    batches = [_batch("single", 1), _batch("array", 10)]

    assert ceiling(batches) == Ceiling(11, 11, 33.0, 1056.0, 132.0)
    assert ceiling([]) == Ceiling()
