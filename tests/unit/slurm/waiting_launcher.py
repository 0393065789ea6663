"""A launcher with a job that goes on, until stdin is closed: ``waiting_launcher.py STUDY_DIR``."""

import sys
import time
from pathlib import Path

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher

_ROOT = Path(__file__).parents[3]


def begin(study_dir: Path) -> SlurmLauncher:
    """Submit a job as a flow run does; return the launcher once the job runs."""
    run_dir = study_dir / "points" / "000"
    run_dir.mkdir(parents=True)
    RunDirectory(run_dir).job.touch()
    plan = JobPlan(
        name="a",
        module="tests.fakes.waiting_job",
        run_dir=run_dir,
        resources=SlurmResources(),
        code_dir=_ROOT,
    )
    config = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
    launcher = SlurmLauncher(config, study_dir)
    job = launcher.submit(plan)
    while launcher.poll(job) is not JobState.RUNNING:
        time.sleep(0.05)
    return launcher


if __name__ == "__main__":
    running = begin(Path(sys.argv[1]))
    sys.stdout.write("running\n")
    sys.stdout.flush()
    sys.stdin.read()
    running.detach()
