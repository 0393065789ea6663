"""The launcher on a real cluster that loses nodes and controllers, and on which it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runtime.signs import EXIT_ALREADY_RUNNING
from tasks.slurm.launcher import JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.slurm_launcher import LEDGER_NAME, SlurmLauncher
from tests.cluster.launching import ARRAY, ROOT, SINGLE, began, ended, planned, queue, until
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions

# Submits one job and says so; then it does nothing but follow it.
ORCHESTRATOR = """
import sys, time
from pathlib import Path
from tests.cluster.launching import ARRAY, planned
from tasks.slurm.slurm_launcher import SlurmLauncher

study = Path(sys.argv[1])
launcher = SlurmLauncher(ARRAY, study, state_dir=study / "state")
launcher.submit_all([planned(study, f"r{i}", "work 6") for i in range(4)])
print("planned", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_orchestrator_leaves_its_jobs_to_the_next(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Killed as soon as it has written them down, or a little later: each job runs once."""
    study = tmp_path / "study"
    study.mkdir()
    environment = os.environ | in_cluster.environment() | {"PYTHONPATH": str(ROOT)}
    for pause_s in (0.0, 0.02, 0.1, 1.0):
        with subprocess.Popen(
            [sys.executable, "-c", ORCHESTRATOR, str(study)],
            env=environment,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"planned\n"
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)

    plans = [planned(study, f"r{number}", "work 6") for number in range(4)]
    launcher = launch(ARRAY)
    states = [ended(launcher, job) for job in launcher.submit_all(plans)]

    assert states == [JobState.FINISHED] * 4
    assert [len(began(plan)) for plan in plans] == [1] * 4


@pytest.mark.slow
def test_a_controller_that_crashes_loses_no_job(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Killed in the second after the submission, it forgets the job; a stranger gets its id."""
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "work 5")

    job = launcher.submit(plan)
    until(lambda: queue(in_cluster))
    in_cluster.restart_controller(crash=True)
    in_cluster.run(["sbatch", "--job-name=other", "--wrap=sleep 300", "--output=/dev/null"])
    state = ended(launcher, job, 180)

    assert state is JobState.FINISHED
    assert "other" in queue(in_cluster)
    exits = (plan.run_dir / "attempts").glob("*/exit.json")
    codes = [json.loads(path.read_text())["code"] for path in exits]
    assert codes.count(0) == 1


@pytest.mark.slow
def test_a_lost_node_is_avoided(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """A job that must not be requeued is submitted again, and not to the node that was lost."""
    launcher = launch(SINGLE.model_copy(update={"requeue": False}))
    plan = planned(tmp_path / "study", "r", "save 300", requeue=False)
    job = launcher.submit(plan)
    until(lambda: began(plan))
    started = json.loads((plan.run_dir / "attempts/1/started.json").read_text())

    in_cluster.kill_node(started["node"], now=True)
    state = ended(launcher, job, 180)

    assert state is JobState.FINISHED
    second = json.loads((plan.run_dir / "attempts/2/started.json").read_text())
    assert second["submission"] == 2
    assert second["node"] != started["node"]


@pytest.mark.slow
def test_a_lost_node_is_avoided_by_the_job_that_slurm_requeues(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """It keeps its number; when it is let go, Slurm is told where it must not run again."""
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "save 300")
    job = launcher.submit(plan)
    until(lambda: began(plan))
    lost = json.loads((plan.run_dir / "attempts/1/started.json").read_text())["node"]

    in_cluster.kill_node(lost, now=True)
    state = ended(launcher, job, 180)

    assert state is JobState.FINISHED
    second = json.loads((plan.run_dir / "attempts/2/started.json").read_text())
    assert (second["submission"], second["restarts"]) == (1, 1)
    told = in_cluster.run(["scontrol", "show", "job", began(plan)[0]]).stdout
    assert f"ExcNodeList={lost}\n" in told


@pytest.mark.slow
def test_a_cut_node_is_found_by_the_controller_and_its_job_fenced(
    launch: Callable[..., SlurmLauncher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sets it DOWN: the job runs elsewhere, and what goes on behind the cut is overtaken."""
    options = ClusterOptions(node_timeout_s=6, message_timeout_s=5)
    with running_cluster(options) as cluster:
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)
        launcher = launch(SINGLE)
        plan = planned(tmp_path / "study", "r", "save 600")
        job = launcher.submit(plan)
        until(lambda: began(plan))
        first = json.loads((plan.run_dir / "attempts/1/started.json").read_text())

        cluster.cut_node(first["node"])
        until(lambda: cluster.node_state(first["node"]).startswith("down"), 90)
        is_alive_behind_the_cut = Path(f"/proc/{first['pid']}").exists()
        state = ended(launcher, job, 180)
        until((plan.run_dir / "attempts/1/exit.json").exists)
        launcher.detach()

    second = json.loads((plan.run_dir / "attempts/2/started.json").read_text())
    overtaken = json.loads((plan.run_dir / "attempts/1/exit.json").read_text())
    assert is_alive_behind_the_cut
    assert state is JobState.FINISHED
    assert (second["submission"], second["restarts"]) == (1, 1)
    assert second["node"] != first["node"]
    assert overtaken["code"] == EXIT_ALREADY_RUNNING
    assert len(began(plan)) == 2


def test_a_requeued_job_does_not_wait_two_minutes(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """What Slurm holds after a requeue is let go; the same submission goes on."""
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "save 300")
    job = launcher.submit(plan)
    until(lambda: began(plan))

    begun_s = time.monotonic()
    in_cluster.run(["scontrol", "requeue", began(plan)[0]])
    state = ended(launcher, job, 100)

    assert state is JobState.FINISHED
    assert time.monotonic() - begun_s < 90.0
    assert len(set(began(plan))) == 1
    ledger = LeaderLedger(LedgerFile(tmp_path / "study" / "state" / LEDGER_NAME))
    assert [one.submission for one in ledger.submissions(str(plan.run_dir))] == [1]
