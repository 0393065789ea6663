"""Jobs that a launcher sends to a test cluster, and what becomes of them."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from configs.launchers import SlurmLauncherConfig, SlurmResources
from configs.study import Study
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, JobState
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.cluster.slurm_cluster import SlurmCluster

ROOT = Path(__file__).parents[2]
SINGLE = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
ARRAY = SINGLE.model_copy(update={"pack": "array"})
_EXPERIMENT = Study.model_validate({"name": "s", "experiment": {"data": "digits"}}).experiment


def planned(study: Path, name: str, what: str, *, requeue: bool = True) -> JobPlan:
    """Make a run directory and the plan of a job that does what it is told."""
    directory = RunDirectory(study / "points" / name)
    directory.path.mkdir(parents=True, exist_ok=True)
    job = JobFile(study="s", point=what, config_hash="0", experiment=_EXPERIMENT)
    directory.job.write_text(job.model_dump_json())
    return JobPlan(
        name=name,
        module="tests.cluster.labelled_job",
        run_dir=directory.path,
        resources=SlurmResources(time_limit="10", requeue=requeue),
        code_dir=ROOT,
        python=sys.executable,
    )


def ended(launcher: SlurmLauncher, job: JobId, limit_s: float = 90) -> JobState:
    """Wait for the end of a job; return how it ended."""
    state = launcher.wait(job, limit_s)
    assert state.is_final, f"{job} is {state} after {limit_s} s"
    return state


def until(condition: Callable[[], object], limit_s: float = 30) -> None:
    """Wait until something is so."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < limit_s, "it did not come to that"
        time.sleep(0.05)


def began(plan: JobPlan) -> list[str]:
    """Return the jobs of Slurm that have begun a run."""
    path = plan.run_dir / "began"
    return path.read_text().split() if path.exists() else []


def queue(cluster: SlurmCluster) -> list[str]:
    """Return the names of the jobs that wait or run."""
    return cluster.run(["squeue", "--noheader", "--format=%j"]).stdout.split()
