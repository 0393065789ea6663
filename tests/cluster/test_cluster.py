"""The clusters of the tests are real: jobs run, fail over, are preempted and accounted for."""

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tasks.slurm.commands import SlurmCli
from tests.cluster.processes import processes_of
from tests.cluster.slots import reap, running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions

NOBODY = 65534
"""A user that every system has."""

# Tells who it is and goes on; a tick shows for how long it has lived.
TICKER = """
echo "$SLURMD_NODENAME restarts=${SLURM_RESTART_COUNT:-0}" >> starts
while :; do echo x >> "ticks.${SLURM_RESTART_COUNT:-0}"; sleep 0.1; done
"""


def submit(cluster: SlurmCluster, script: str, *options: str, cwd: Path) -> str:
    """Submit a script and return the job's id."""
    path = cwd / "job.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    return cluster.run(["sbatch", "--parsable", *options, str(path)], cwd=cwd).stdout.strip()


def state(cluster: SlurmCluster, job: str) -> str:
    """Return the state of a job, or of all tasks of an array, each state once."""
    argv = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    return " ".join(sorted(set(cluster.run(argv).stdout.split())))


def wait_until(is_so: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.05)


def starts(cwd: Path) -> list[str]:
    """Return what the incarnations of the ticker have said, oldest first."""
    path = cwd / "starts"
    return path.read_text().splitlines() if path.exists() else []


def size(path: Path) -> int:
    """Return the size of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def is_growing(path: Path) -> bool:
    """Tell whether the ticker that writes this file is alive; it writes every 0.1 s."""
    before = size(path)
    time.sleep(1.0)
    return size(path) > before


def start_without_delay(cluster: SlurmCluster, job: str) -> None:
    """Lift the 121 s for which Slurm holds a requeued job."""
    wait_until(lambda: state(cluster, job) == "PENDING")
    cluster.run(["scontrol", "update", f"jobid={job}", "starttime=now"])


def test_job_runs_on_a_pretend_node_with_its_gpus(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A job runs on the node that Slurm names and sees as many GPUs as it asked for."""
    script = 'echo "$SLURMD_NODENAME $SLURM_JOB_PARTITION $CUDA_VISIBLE_DEVICES"'

    job = submit(cluster, script, "--gpus-per-node=2", "--output=out", cwd=tmp_path)
    wait_until(lambda: state(cluster, job) == "COMPLETED")

    assert re.fullmatch(r"node0\d batch 0,1\n", (tmp_path / "out").read_text())


def test_array_runs_every_task_once(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Every index of an array runs once, also with a limit of two at a time."""
    script = "echo $SLURM_ARRAY_TASK_ID >> indices"

    job = submit(cluster, script, "--array=0-5%2", "--output=/dev/null", cwd=tmp_path)
    wait_until(lambda: state(cluster, job) == "COMPLETED")

    assert sorted((tmp_path / "indices").read_text().split()) == list("012345")


def test_job_of_a_dead_node_is_requeued(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A job dies with its node, runs again on another and knows that it was restarted."""
    job = submit(cluster, TICKER, "--output=/dev/null", cwd=tmp_path)
    wait_until(lambda: len(starts(tmp_path)) == 1)
    node = starts(tmp_path)[0].split()[0]

    cluster.kill_node(node, now=True)
    start_without_delay(cluster, job)
    wait_until(lambda: len(starts(tmp_path)) == 2)

    assert not is_growing(tmp_path / "ticks.0")
    assert not starts(tmp_path)[1].startswith(node)
    assert starts(tmp_path)[1].endswith("restarts=1")


def test_cut_node_goes_on_beside_the_new_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    """After a cut the old and the new run of a job live at once, until the node is back."""
    job = submit(cluster, TICKER, "--output=/dev/null", cwd=tmp_path)
    wait_until(lambda: len(starts(tmp_path)) == 1)
    node = starts(tmp_path)[0].split()[0]

    cluster.cut_node(node, now=True)
    start_without_delay(cluster, job)
    wait_until(lambda: len(starts(tmp_path)) == 2)
    were_both_alive = is_growing(tmp_path / "ticks.0") and is_growing(tmp_path / "ticks.1")
    cluster.revive_node(node)
    wait_until(lambda: not is_growing(tmp_path / "ticks.0"))

    assert were_both_alive
    assert is_growing(tmp_path / "ticks.1")
    assert starts(tmp_path)[1].endswith("restarts=1")


def test_running_job_survives_the_crash_of_the_controller(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """A job that the controller has saved goes on while it is dead, and is settled afterwards."""
    job = submit(cluster, "sleep 5; echo done > out", "--output=/dev/null", cwd=tmp_path)
    wait_until(lambda: state(cluster, job) == "RUNNING")
    began = time.time()
    wait_until(lambda: (cluster.directory / "controller/job_state").stat().st_mtime > began)

    cluster.restart_controller(crash=True)
    wait_until(lambda: state(cluster, job) == "COMPLETED")

    assert (tmp_path / "out").read_text() == "done\n"


def test_batch_preempts_the_partition_preempt(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A job in batch takes the nodes of one in preempt at once, which goes back to the queue."""
    options = ("--partition=preempt", "--nodes=4", "--exclusive", "--output=/dev/null")
    low = submit(cluster, TICKER, *options, cwd=tmp_path)
    wait_until(lambda: len(starts(tmp_path)) == 1)

    high = submit(cluster, "sleep 60", "--output=/dev/null", cwd=tmp_path)
    wait_until(lambda: state(cluster, high) == "RUNNING")
    wait_until(lambda: state(cluster, low) == "PENDING")

    assert not is_growing(tmp_path / "ticks.0")


def test_accounting_knows_jobs_and_refuses_unknown_accounts(
    accounted_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Sacct tells what became of a job, and an account that does not exist is refused."""
    job = submit(accounted_cluster, "exit 3", "--output=/dev/null", cwd=tmp_path)
    query = ["sacct", "-nXP", "--jobs", job, "--format=State,ExitCode,Account"]
    wait_until(lambda: "FAILED" in accounted_cluster.run(query).stdout)

    refused = accounted_cluster.run(
        ["sbatch", "--account=absent", "job.sh"], cwd=tmp_path, check=False
    )

    assert accounted_cluster.run(query).stdout == "FAILED|3:0|root\n"
    assert refused.returncode != 0
    assert "Invalid account" in refused.stderr


def test_cluster_of_a_killed_test_run_is_cleared(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What a killed process leaves, jobs included, is ended; a live process's cluster is not."""
    parent = tmp_path_factory.mktemp("c")
    program = textwrap.dedent(f"""
        from pathlib import Path
        from tests.cluster.slots import running_cluster
        with running_cluster(parent=Path({str(parent)!r})) as cluster:
            cluster.run(["sbatch", "--output=/dev/null", "--wrap=env -i setsid sleep 1000"])
            cluster.run(["srun", "true"])
            input("up\\n")
    """)
    with running_cluster(ClusterOptions(nodes=1), parent=parent) as live:
        argv = [sys.executable, "-uc", program]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.kill()
        num_left = len(processes_of(parent / "1"))

        reap(parent)

        assert num_left > len(("munged", "slurmctld", "slurmd", "job"))
        assert not processes_of(parent / "1")
        assert not (parent / "1").exists()
        assert live.run(["srun", "echo", "alive"]).stdout == "alive\n"


def test_clusters_side_by_side_do_not_know_each_other(cluster: SlurmCluster) -> None:
    """A job in one cluster is not seen in another."""
    with running_cluster(ClusterOptions(nodes=1)) as other:
        other.run(["sbatch", "--output=/dev/null", "--wrap=sleep 1000"])

        seen = [one.run(["squeue", "--noheader"]).stdout != "" for one in (cluster, other)]

    assert seen == [False, True]


def test_a_hidden_partition_hides_jobs_from_their_own_user(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Root alone sees them without --all; ours are listed, as they would seem lost."""

    def run_as_user(argv: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv,
            user=NOBODY,
            env=cluster.environment(),
            timeout=timeout_s,
            check=True,
            capture_output=True,
            text=True,
        )

    options = (f"--uid={NOBODY}", "--hold", "--partition=debug", "--chdir=/", "--output=/dev/null")
    cluster.run(["scontrol", "update", "PartitionName=debug", "Hidden=YES"])
    try:
        job = submit(cluster, "true", *options, cwd=tmp_path)
        plain = run_as_user(["squeue", "--me", "--noheader", "--format=%i"], 30.0)
        listed = SlurmCli(run_as_user).queue()
    finally:
        cluster.run(["scontrol", "update", "PartitionName=debug", "Hidden=NO"])
        cluster.run(["scancel", f"--user={NOBODY}"])

    assert plain.stdout == ""
    assert [one.slurm_job for one in listed] == [job]
