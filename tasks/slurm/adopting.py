"""Takes over jobs that the ledger does not know, by the names that their scripts have.

They were submitted by hand, from elsewhere, or before the ledger was lost.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.ledger import Ledger
from tasks.slurm.plan import JobPlan
from tasks.slurm.script import RUNS_FILE
from tasks.slurm.sightings import Queued

_NAME = re.compile(r"^#SBATCH --job-name=(?P<name>ws-[0-9a-f]+-(?P<submission>\d+))$", re.MULTILINE)
_ARRAY = re.compile(r"^#SBATCH --array=", re.MULTILINE)


@dataclass(frozen=True)
class Stray:
    """A submission that Slurm has, as its script describes it.

    Attributes:
        name: Slurm's name of it.
        submission: Its number.
        mode: Of its batch.
        run_dirs: Its run directories; number i is task i of an array.
        slurm_job: Slurm's id, of the whole array.
    """

    name: str
    submission: int
    mode: str
    run_dirs: tuple[str, ...]
    slurm_job: str


def strays(study_dir: Path, queued: Sequence[Queued]) -> list[Stray]:
    """Find the submissions of a study that Slurm has.

    Args:
        study_dir: The study, absolute.
        queued: What squeue tells.

    Returns:
        The submissions that are not over, whether the ledger knows them or not.

    Raises:
        OSError: A file of the study cannot be read.
    """
    live = {job.name: job.slurm_job for job in queued if not job.state.is_final}
    found = []
    for script in _scripts(study_dir):
        text = script.read_text(encoding="utf-8", errors="surrogateescape")
        match = _NAME.search(text)
        if match is None or match["name"] not in live:
            continue
        runs = script.with_name(RUNS_FILE)
        is_shared = runs.exists()
        mode = ("array" if _ARRAY.search(text) else "allocation") if is_shared else "single"
        run_dirs = json.loads(runs.read_bytes()) if is_shared else [str(script.parent)]
        found.append(
            Stray(
                name=match["name"],
                submission=int(match["submission"]),
                mode=mode,
                run_dirs=tuple(run_dirs),
                slurm_job=live[match["name"]].partition("_")[0],
            )
        )
    return found


def _scripts(study_dir: Path) -> Iterator[Path]:
    for pattern in ("batches/*/job.sh", "points/*/job.sh", "points/*/workers/*/job.sh"):
        yield from sorted(study_dir.glob(pattern))


def adopt(
    ledger: Ledger,
    config: SlurmLauncherConfig,
    study_dir: Path,
    stray: Stray,
    *,
    plans: Sequence[JobPlan],
    now_s: float,
) -> int:
    """Write a submission into the ledger, as if it had been submitted from here.

    Args:
        ledger: The ledger.
        config: How the study submits its jobs.
        study_dir: The study, absolute.
        stray: The submission.
        plans: The jobs of the study; those of this submission are taken.
        now_s: Unix time.

    Returns:
        The jobs that were adopted: those that the ledger has not got, or that are over in it.
    """
    of_run = {str(plan.run_dir): plan for plan in plans}
    rows = [
        {
            "run_dir": run_dir,
            "study_dir": str(study_dir),
            "plan": of_run[run_dir].model_dump_json(),
            "submission": stray.submission,
            "name": stray.name,
            "mode": stray.mode,
            "task": task if stray.mode == "array" else None,
            "slurm_job": f"{stray.slurm_job}_{task}" if stray.mode == "array" else stray.slurm_job,
            "now_s": now_s,
        }
        for task, run_dir in enumerate(stray.run_dirs)
        if run_dir in of_run
    ]
    with ledger.file.transaction(is_durable=True) as connection:
        connection.execute(
            "INSERT OR REPLACE INTO studies (study_dir, launcher) VALUES (?, ?)",
            (str(study_dir), config.model_dump_json()),
        )
        (before,) = connection.execute("SELECT total_changes()").fetchone()
        connection.executemany(
            "INSERT INTO jobs (run_dir, study_dir, plan, state, submission, first_submission, name,"
            " mode, task, slurm_job, needs_costs, submitting_s, changed_s) VALUES (:run_dir,"
            " :study_dir, :plan, 'submitted', :submission, :submission, :name, :mode, :task,"
            " :slurm_job, 1, :now_s, :now_s) ON CONFLICT (run_dir) DO UPDATE SET"
            " plan = excluded.plan, state = 'submitted', submission = excluded.submission,"
            " first_submission = excluded.submission, name = excluded.name, mode = excluded.mode,"
            " task = excluded.task, slurm_job = excluded.slurm_job, failure = '', message = '',"
            " wish_cancel = 0, needs_costs = 1, submitting_s = excluded.submitting_s,"
            " changed_s = excluded.changed_s WHERE state IN ('finished', 'failed', 'interrupted')",
            rows,
        )
        (after,) = connection.execute("SELECT total_changes()").fetchone()
        connection.executemany(
            "INSERT OR REPLACE INTO submissions"
            " (run_dir, name, submission, slurm_job, submitting_s)"
            " VALUES (:run_dir, :name, :submission, :slurm_job, :now_s)",
            rows,
        )
    return int(after) - int(before)
