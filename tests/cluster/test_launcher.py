"""The launcher on a real cluster: what the fakes are a model of."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.runtime.records import Costs
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.cluster.launching import ARRAY, SINGLE, began, ended, planned, queue, until
from tests.cluster.slurm_cluster import SlurmCluster


@pytest.mark.parametrize("config", [SINGLE, ARRAY, ARRAY.model_copy(update={"pack": "allocation"})])
def test_jobs_end_as_they_should(
    in_accounted: SlurmCluster,
    launch: Callable[..., SlurmLauncher],
    tmp_path: Path,
    config: SlurmLauncherConfig,
) -> None:
    """Good ends, errors with a reason and deaths without one; costs of each from the accounting."""
    del in_accounted
    launcher = launch(config)
    plans = [
        planned(tmp_path / "study", f"r{number}", what)
        for number, what in enumerate(["work 1", "fail", "work 2", "die"])
    ]

    states = [ended(launcher, job) for job in launcher.submit_all(plans)]
    launcher.close()

    assert [state.value for state in states] == ["finished", "failed", "finished", "failed"]
    results = [RunDirectory(plan.run_dir).read_result() for plan in plans]
    assert [result.reason for result in results if result] == ["", "data", "", "oom"]
    assert [len(began(plan)) for plan in plans] == [1, 1, 1, 1]
    for plan in plans[:1]:
        costs = Costs.model_validate_json(RunDirectory(plan.run_dir).costs.read_text())
        assert costs.attempts[0].node_hours is not None


@pytest.mark.slow
def test_the_ends_of_jobs_are_known_soon(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """By what the nodes write, long before the next look at the queue; benchmarks say how soon."""
    del in_cluster
    launcher = launch(ARRAY)
    plans = [planned(tmp_path / "study", f"r{n}", f"work {3 + 0.4 * n}") for n in range(20)]
    delays_s = []

    for job, plan in zip(launcher.submit_all(plans), plans, strict=True):
        assert ended(launcher, job) is JobState.FINISHED
        delays_s.append(time.time() - float((plan.run_dir / "ended").read_text()))

    delays_s.sort()
    sys.stdout.write(f"end of a job -> known: {delays_s[10]:.2f} s, p95 {delays_s[18]:.2f} s\n")
    assert delays_s[18] < 5  # s; 2 are wanted, on a machine with nothing else to do


@pytest.mark.slow
def test_a_job_that_is_asked_for_again_while_it_dies_gets_another(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """By the next process: it waits for the end of the former, and then submits anew."""
    plan = planned(tmp_path / "study", "r0", "deaf 600")
    launcher = launch(SINGLE)
    job = launcher.submit(plan)
    until(lambda: began(plan), limit_s=60)

    launcher.cancel(job)
    until(lambda: "CG" in in_cluster.run(["squeue", "-h", "-o", "%t"]).stdout.split())
    launcher.detach()
    successor = launch(SINGLE)
    state = ended(successor, successor.submit(plan))

    assert state is JobState.FINISHED
    assert len(set(began(plan))) == 2


def test_cancelling_reaches_running_and_queued_jobs(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Within ten seconds; a job that is none of ours goes on."""
    in_cluster.run(["sbatch", "--job-name=other", "--wrap=sleep 60", "--output=/dev/null"])
    launcher = launch(ARRAY.model_copy(update={"max_running": 1}))
    plans = [planned(tmp_path / "study", f"r{number}", "work 60") for number in range(3)]
    jobs = launcher.submit_all(plans)
    until(lambda: launcher.poll(jobs[0]) is JobState.RUNNING)

    begun_s = time.monotonic()
    for job in jobs:
        launcher.cancel(job)
    states = [ended(launcher, job, 20) for job in jobs]

    assert time.monotonic() - begun_s <= 10.0
    assert states == [JobState.INTERRUPTED] * 3
    assert queue(in_cluster) == ["other"]


def test_what_sbatch_refuses_is_said_in_its_words(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """The job has failed; the message names the partition's fault."""
    del in_cluster
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "work")
    resources = SlurmResources(partition="nowhere", time_limit="10")

    job = launcher.submit(plan.model_copy(update={"resources": resources}))
    state = ended(launcher, job, 20)

    result = RunDirectory(plan.run_dir).read_result()
    assert result is not None
    assert (state, result.reason) == (JobState.FAILED, "refused")
    assert "invalid partition name" in result.message.lower()
