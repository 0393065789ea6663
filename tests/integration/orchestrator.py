"""An orchestrator to be killed: ``orchestrator.py STUDY_DIRECTORY NUM_JOBS``."""

import sys
from pathlib import Path

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.launcher import JobState
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher

ROOT = Path(__file__).parents[2]


def main(study_dir: Path, num_jobs: int) -> int:
    """Submit jobs, and wait until all have ended.

    Args:
        study_dir: Where the run directories are made.
        num_jobs: How many.

    Returns:
        0 if all have finished.
    """
    config = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=10_000)
    launcher = SlurmLauncher(config, study_dir, state_dir=study_dir.parent / "state")
    plans = []
    for number in range(num_jobs):
        run_dir = study_dir / "points" / f"{number:03d}"
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "job.json").touch()
        plans.append(
            JobPlan(
                name=f"toy {number}",
                module="tests.integration.toy_job",
                run_dir=run_dir,
                resources=SlurmResources(time_limit="5"),
                code_dir=ROOT,
            )
        )
    states = set()
    for job in launcher.submit_all(plans):
        while not (state := launcher.wait(job, 60)).is_final:
            pass
        states.add(state)
    launcher.detach()
    return 0 if states == {JobState.FINISHED} else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
