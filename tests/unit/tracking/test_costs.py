"""Sums over what attempts cost."""

from pathlib import Path

import pytest

from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import AttemptCost, Costs
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.costs import read_costs, total

_FIRST = AttemptCost(
    submission=1,
    slurm_job="7",
    state="PREEMPTED",
    queue_wait_s=10,
    elapsed_s=3600,
    node_hours=2,
    gpu_hours=16,
    max_rss_bytes=5,
    cpu_efficiency=0.5,
    lost_node_hours=1,
)
_SECOND = AttemptCost(
    submission=1,
    slurm_job="7",
    restarts=1,
    state="COMPLETED",
    queue_wait_s=20,
    elapsed_s=10_800,
    node_hours=6,
    gpu_hours=48,
    max_rss_bytes=9,
    cpu_efficiency=0.9,
)


def test_what_is_known_of_all_attempts_is_added_up() -> None:
    """Times and hours add up, the peak is the largest, the efficiency is weighed by node-hours.

    An attempt that has completed has lost nothing, whether or not that is told.
    """
    sums = total([_FIRST, _SECOND])

    assert sums is not None
    assert (sums.num_attempts, sums.queue_wait_s, sums.elapsed_s) == (2, 30, 14_400)
    assert (sums.node_hours, sums.gpu_hours, sums.lost_node_hours) == (8, 64, 1)
    assert sums.max_rss_bytes == 9
    assert sums.cpu_efficiency == pytest.approx((2 * 0.5 + 6 * 0.9) / 8)
    assert sums.energy_j is None
    assert "cost/energy_j" not in sums.metrics()
    assert sums.metrics()["cost/node_hours"] == 8


@pytest.mark.parametrize(
    "name", ["queue_wait_s", "elapsed_s", "node_hours", "gpu_hours", "lost_node_hours", "energy_j"]
)
def test_a_sum_over_some_attempts_is_none(name: str) -> None:
    """Where one attempt lacks it, half of a cost is not told as if it was all."""
    preempted = _FIRST.model_copy(update={"energy_j": 100.0})
    failed = preempted.model_copy(update={"state": "FAILED", name: None})

    sums = total([preempted, failed])

    whole = total([preempted, preempted])
    assert sums is not None
    assert whole is not None
    assert getattr(sums, name) is None
    assert f"cost/{name}" not in sums.metrics()
    assert getattr(whole, name) == 2 * getattr(preempted, name)


def test_an_attempt_that_did_not_run_needed_no_energy() -> None:
    """Without a second on its nodes nothing is metered, and nothing is missing."""
    measured = _SECOND.model_copy(update={"energy_j": 100.0})
    never = _FIRST.model_copy(update={"elapsed_s": 0.0, "node_hours": 0.0})

    sums, none = total([never, measured]), total([never])

    assert sums is not None
    assert none is not None
    assert (sums.energy_j, none.energy_j) == (100.0, None)


def test_a_run_without_slurm_has_no_costs(tmp_path: Path) -> None:
    """No file, no attempts, no sum; a written file is read back."""
    directory = RunDirectory(tmp_path)

    before = read_costs(directory)
    write_json(directory.costs, Costs(attempts=(_FIRST,)).model_dump(mode="json"))

    assert before == ()
    assert total(before) is None
    assert read_costs(directory) == (_FIRST,)


def test_the_workers_of_a_server_cost_too(tmp_path: Path) -> None:
    """What the real workers of a run cost is part of what the run costs."""
    server = RunDirectory(tmp_path)
    for directory, attempt in ((server, _FIRST), (server.worker(3), _SECOND)):
        directory.path.mkdir(parents=True, exist_ok=True)
        write_json(directory.costs, Costs(attempts=(attempt,)).model_dump(mode="json"))

    assert read_costs(server) == (_FIRST, _SECOND)
