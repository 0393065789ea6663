"""A training on two nodes: a rank is killed under srun, the job is submitted again by itself."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.launchers import SlurmResources
from tasks.runtime.records import Exit, Result, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import LEDGER_NAME, SlurmLauncher
from tests.cluster.launching import ROOT, SINGLE
from tests.cluster.slurm_cluster import SlurmCluster
from tests.integration.test_training_job import num_lines, prepare, run, until, what_counts

STRUCK = 3
"""The rank that is killed: the last of the second node."""
ENDED_WITHIN_S = 30
"""How long after the death of a rank the whole job may take to end, with the reason told."""
MACHINE: dict[str, object] = {"name": "pairs", "levels": [{"name": "node", "ranks": 2}]}


def rank_pid(directory: RunDirectory, rank: int) -> int | None:
    """Return the process id of a rank: the child of the process that srun has started for it."""
    wanted = {f"SLURM_PROCID={rank}".encode(), f"WATERSHED_RUN={directory.path}".encode()}
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if wanted <= set(words) and b"tasks.zero.train_job" in (path / "cmdline").read_bytes():
            found[int(path.name)] = parent
    return next((pid for pid, parent in found.items() if parent in found), None)


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_training_goes_on(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Four ranks on two nodes, one killed: the job ends in time, the next one with equal bits."""
    del in_cluster
    undisturbed = prepare(tmp_path / "undisturbed", topology=MACHINE)
    assert run(undisturbed) == 0
    study, launcher = tmp_path / "study", launch(SINGLE)
    directory = prepare(study / "run", topology=MACHINE)
    plan = JobPlan(
        name="training",
        module="tasks.zero.train_job",
        run_dir=directory.path,
        resources=SlurmResources(
            nodes=2,
            tasks_per_node=2,
            time_limit="10",
            setup=(f"export WATERSHED_CACHE={tmp_path}/cache",),
        ),
        code_dir=ROOT,
        python=sys.executable,
    )

    job = launcher.submit(plan)
    until(lambda: num_lines(directory) >= 4, 90)
    pid = rank_pid(directory, STRUCK)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until((directory.attempt(1) / "exit.json").exists, ENDED_WITHIN_S)  # after the result
    struck = Result.model_validate_json(directory.result.read_bytes())
    state = launcher.wait(job, 120)

    assert struck.reason == "rank_lost"
    assert struck.message.startswith(f"rank {STRUCK} (process {pid} on ")
    assert "was killed by SIGKILL" in struck.message
    assert Exit.model_validate_json((directory.attempt(1) / "exit.json").read_bytes()).code == 1
    assert state is JobState.FINISHED
    second = Started.model_validate_json((directory.attempt(2) / "started.json").read_bytes())
    assert second.submission == 2
    ledger = LeaderLedger(LedgerFile(study / "state" / LEDGER_NAME))
    first, _ = ledger.submissions(str(directory.path))
    assert first.submission == 1
    assert what_counts(directory) == what_counts(undisturbed)
