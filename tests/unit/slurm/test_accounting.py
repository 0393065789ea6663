"""What attempts cost: the accounting's rows, joined with the attempts' own files."""

from typing import Any

import pytest

from tasks.runtime.records import AttemptCost, Costs, Exit, Started
from tasks.slurm.accounting import Asked, Submitted, costs
from tasks.slurm.attempts import Attempt
from tasks.slurm.sightings import Accounted
from tasks.slurm.states import SlurmState

T0 = 1_700_000_000
ONE = Asked(nodes=1)


def row(state: SlurmState, **fields: Any) -> Accounted:
    """Make an incarnation of job 12: an hour on two nodes with four GPUs each."""
    usual: dict[str, Any] = {
        "slurm_job": "12",
        "name": "ws-a-1",
        "state": state,
        "partition": "batch",
        "nodes": "node[01-02]",
        "num_nodes": 2,
        "num_cpus": 16,
        "num_gpus": 8,
        "submitted_s": T0 - 700,
        "eligible_s": T0 - 600,
        "started_s": T0,
        "ended_s": T0 + 3600,
        "elapsed_s": 3600,
    }
    return Accounted(**usual | fields)


def attempt(
    *,
    slurm_job: str = "12",
    restarts: int = 0,
    submission: int = 1,
    start_s: float = T0,
    last_s: float = T0 + 3600,
    saved_s: float | None = T0 + 1800,
    code: int | None = 143,
    has_ended: bool = True,
) -> Attempt:
    """Make the files' account of the same hour, saved in its middle."""
    started = Started(
        pid=1,
        host="h",
        timestamp_ms=int(start_s * 1000),
        submission=submission,
        slurm_job=slurm_job,
        restarts=restarts,
        partition="files",
    )
    exit_ = None if code is None else Exit(code=code, timestamp_ms=int(last_s * 1000))
    return Attempt(started, exit_, start_s, last_s, has_ended, saved_s)


def submitted(slurm_job: str = "12", number: int = 1) -> Submitted:
    """Make a submission, a quarter of an hour before the job starts."""
    return Submitted(number, slurm_job, T0 - 900)


def test_an_attempt_is_paid_by_nodes_and_hours() -> None:
    """Two nodes with eight GPUs for an hour, half of which was not saved."""
    rows = [row(SlurmState.TIMEOUT, cpu_s=28_800.0, max_rss_bytes=5, energy_j=9.0)]

    (cost,) = costs([submitted()], rows, [attempt()], asked=ONE).attempts

    assert cost == AttemptCost(
        submission=1,
        slurm_job="12",
        restarts=0,
        state="TIMEOUT",
        nodes=2,
        partition="batch",
        queue_wait_s=600,
        elapsed_s=3600,
        node_hours=2.0,
        gpu_hours=8.0,
        max_rss_bytes=5,
        cpu_efficiency=0.5,  # 28,800 s of 16 CPUs times 3,600 s
        energy_j=9.0,
        lost_node_hours=1.0,
    )


def test_without_accounting_the_files_tell_what_they_can() -> None:
    """Wait, time and nodes are known to ourselves; memory, efficiency and energy to nobody."""
    (cost,) = costs([submitted()], [], [attempt()], asked=Asked(nodes=4, gpus=2)).attempts

    assert cost == AttemptCost(
        submission=1,
        slurm_job="12",
        state="",
        nodes=4,
        partition="files",
        queue_wait_s=900,
        elapsed_s=3600,
        node_hours=4.0,
        gpu_hours=2.0,
        lost_node_hours=2.0,
    )


def test_every_incarnation_counts_once() -> None:
    """Rows and attempts of one job are matched by the restarts; each submission has its own job."""
    rows = [
        row(SlurmState.PREEMPTED),
        row(SlurmState.NODE_FAIL, started_s=T0 + 4000, ended_s=T0 + 7600, eligible_s=T0 + 3800),
        row(SlurmState.COMPLETED, slurm_job="15", started_s=T0 + 9000, ended_s=T0 + 12_600),
    ]
    attempts = [
        attempt(),
        attempt(restarts=1, start_s=T0 + 4001, last_s=T0 + 7500, saved_s=T0 + 5800, code=None),
        attempt(slurm_job="15", submission=2, last_s=T0 + 12_600, saved_s=T0 + 12_600, code=0),
    ]

    found = costs([submitted(), submitted("15", 2)], rows, attempts, asked=ONE).attempts

    assert [(c.submission, c.slurm_job, c.restarts, c.state) for c in found] == [
        (1, "12", 0, "PREEMPTED"),
        (1, "12", 1, "NODE_FAIL"),
        (2, "15", 0, "COMPLETED"),
    ]
    assert [c.queue_wait_s for c in found] == [600, 200, 9600]
    # The node was last heard of at 7,500 s, but was paid for until Slurm missed it at 7,600 s.
    assert [c.lost_node_hours for c in found] == [1.0, 2 * 1800 / 3600, 0.0]


def test_a_job_that_never_had_a_node_costs_nothing() -> None:
    """Cancelled while it waited: no attempt, no entry."""
    rows = [row(SlurmState.CANCELLED, nodes="", num_nodes=0, elapsed_s=0)]

    assert costs([submitted()], rows, [], asked=ONE) == Costs()


def test_an_attempt_without_files_is_lost_as_a_whole() -> None:
    """A node that failed in the set-up lines was paid for, and has saved nothing."""
    (cost,) = costs([submitted()], [row(SlurmState.NODE_FAIL)], [], asked=ONE).attempts

    assert cost.lost_node_hours == cost.node_hours == 2.0


def test_of_an_attempt_that_runs_nothing_is_lost_yet() -> None:
    """So far it has cost half an hour; what will be lost is not known."""
    rows = [row(SlurmState.RUNNING, ended_s=None, elapsed_s=1800)]
    attempts = [attempt(code=None, has_ended=False, last_s=T0 + 1790, saved_s=T0)]

    (cost,) = costs([submitted()], rows, attempts, asked=ONE).attempts

    assert cost.node_hours == 1.0
    assert cost.lost_node_hours is None


def test_what_was_known_before_is_kept() -> None:
    """Once its checkpoints are gone, what an attempt has lost is taken from the earlier account."""
    forgotten = [attempt(saved_s=None)]
    earlier = costs([submitted()], [], [attempt()], asked=ONE)

    kept = costs([submitted()], [], forgotten, asked=ONE, earlier=earlier)
    lost = costs([submitted()], [], forgotten, asked=ONE)

    assert kept.attempts[0].lost_node_hours == 0.5
    assert lost.attempts[0].lost_node_hours is None


def test_runs_of_one_allocation_share_its_cost() -> None:
    """Ten runs in one job bear a tenth each; together they bear the whole."""
    rows = [row(SlurmState.COMPLETED, energy_j=50.0)]
    asked = Asked(nodes=2, num_sharing=10)

    (cost,) = costs([submitted()], rows, [attempt()], asked=asked).attempts

    assert (cost.node_hours, cost.gpu_hours, cost.energy_j) == (0.2, 0.8, 5.0)
    assert cost.lost_node_hours == pytest.approx(0.1)  # division by ten does not end in binary


def test_a_job_run_by_hand_counts_under_its_own_number() -> None:
    """What the ledger has not submitted is known by its own files."""
    (cost,) = costs([], [], [attempt(slurm_job="99", submission=7)], asked=ONE).attempts

    assert (cost.submission, cost.queue_wait_s) == (7, None)
