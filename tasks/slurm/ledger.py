"""The ledger: every job of a user on a cluster, written down before Slurm hears of it.

One SQLite file for all processes of the user. Anybody may add jobs and wishes; only the leader (see
``leader``) moves a job on. A job's life::

    PLANNED -> SUBMITTING -> SUBMITTED -> RUNNING -> FINISHED | FAILED | INTERRUPTED
       ^           |             |           |
       +-----------+-------------+-----------+   Slurm has never heard of it, or another
                                                 submission follows

SUBMITTING is committed, and on the disk, before sbatch is started: a job in that state may or may
not be known to Slurm, and whoever finds it looks for its name. No other commit must survive a power
cut: what they say can be found out again from Slurm and the run directories.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.entries import (
    JOB_COLUMNS,
    SUBMISSION_COLUMNS,
    Entry,
    LedgerState,
    Loss,
    Submission,
    Trouble,
    entry_of,
    submission_of,
)
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import JobPlan

CANCEL_AND_AGAIN = 2
"""Of ``wish_cancel``, which is 0 or 1 else: the job was asked for again while it was dying."""


class Ledger:
    """The jobs of a user on a cluster; may be used from several threads and processes.

    Args:
        file: Where it lies.
    """

    def __init__(self, file: LedgerFile) -> None:
        self.file = file

    def version(self) -> int:
        """Return a number that changes when another connection has written."""
        return int(self.file.read("PRAGMA data_version")[0][0])

    def register(
        self, study_dir: Path, config: SlurmLauncherConfig, plans: Sequence[JobPlan], now_s: float
    ) -> None:
        """Plan jobs; one that is not over yet is left as it is: it is the same job.

        But one that was cancelled and still dies would end what is asked for now: it is planned
        again when it is over, unless it has finished all the same (see ``LeaderLedger.end``).

        Args:
            study_dir: The study.
            config: How the study submits its jobs.
            plans: The jobs.
            now_s: Unix time.
        """
        rows = [(str(p.run_dir), str(study_dir), p.model_dump_json(), now_s) for p in plans]
        with self.file.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO studies (study_dir, launcher) VALUES (?, ?)",
                (str(study_dir), config.model_dump_json()),
            )
            connection.executemany(
                "INSERT INTO jobs (run_dir, study_dir, plan, state, changed_s)"
                " VALUES (?, ?, ?, 'planned', ?) ON CONFLICT (run_dir) DO UPDATE SET"
                " study_dir = excluded.study_dir, plan = excluded.plan, state = 'planned',"
                " first_submission = submission + 1, slurm_job = '', slurm_state = '',"
                " reason = '', restarts = 0, nodes = '', failure = '', message = '', exclude = '',"
                " wish_cancel = 0, not_before_s = 0, changed_s = excluded.changed_s"
                " WHERE state IN ('finished', 'failed', 'interrupted')",
                rows,
            )
            connection.executemany(
                "UPDATE jobs SET plan = ?, wish_cancel = ?, changed_s = ?"
                " WHERE run_dir = ? AND wish_cancel"
                " AND state NOT IN ('finished', 'failed', 'interrupted')",
                [(plan, CANCEL_AND_AGAIN, now_s, run_dir) for run_dir, _, plan, _ in rows],
            )

    def wish_cancel(self, run_dirs: Iterable[str], now_s: float) -> None:
        """Wish that jobs stop; those that are over are left as they are."""
        with self.file.transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET wish_cancel = 1, changed_s = ?"
                " WHERE run_dir = ? AND state NOT IN ('finished', 'failed', 'interrupted')",
                [(now_s, run_dir) for run_dir in run_dirs],
            )

    def states(self, study_dir: Path) -> dict[str, LedgerState]:
        """Return run directory -> state of all jobs of a study."""
        rows = self.file.read(
            "SELECT run_dir, state FROM jobs WHERE study_dir = ?", (str(study_dir),)
        )
        return {run_dir: LedgerState(state) for run_dir, state in rows}

    def entries(self, study_dir: Path | None = None) -> list[Entry]:
        """Return the jobs of a study, or all, in the order in which they were planned first."""
        if study_dir is None:
            return self._entries("ORDER BY rowid")
        return self._entries("WHERE study_dir = ? ORDER BY rowid", str(study_dir))

    def entry(self, run_dir: str) -> Entry | None:
        """Return one job; None if it is not in the ledger."""
        return next(iter(self._entries("WHERE run_dir = ?", run_dir)), None)

    def owes_costs(self, study_dir: Path) -> bool:
        """Say whether a study has jobs that are over and whose costs have not been written."""
        return bool(
            self.file.read(
                "SELECT 1 FROM jobs WHERE study_dir = ? AND needs_costs"
                " AND state IN ('finished', 'failed', 'interrupted') LIMIT 1",
                (str(study_dir),),
            )
        )

    def submissions(self, run_dir: str) -> list[Submission]:
        """Return the history of a job, oldest submission first."""
        rows = self.file.read(
            f"SELECT {SUBMISSION_COLUMNS} FROM submissions"  # noqa: S608  our own words
            " WHERE run_dir = ? ORDER BY submission, submitting_s",
            (run_dir,),
        )
        return [submission_of(row) for row in rows]

    def losses(self, run_dir: str, name: str) -> list[Loss]:
        """Return the nodes that were lost under a submission, oldest first.

        Args:
            run_dir: The job.
            name: Slurm's name of the submission.
        """
        rows = self.file.read(
            "SELECT restarts, node, moved, words FROM losses WHERE run_dir = ? AND name = ?"
            " ORDER BY restarts",
            (run_dir, name),
        )
        return [Loss(restarts, node, bool(moved), words) for restarts, node, moved, words in rows]

    def trouble(self) -> Trouble | None:
        """Return that Slurm does not answer; None if it does, as far as is known."""
        rows = self.file.read("SELECT words, since_s, asked_s FROM trouble")
        return Trouble(*rows[0]) if rows else None

    def _entries(self, condition: str, *values: str | int) -> list[Entry]:
        rows = self.file.read(f"SELECT {JOB_COLUMNS} FROM jobs {condition}", values)  # noqa: S608
        return [entry_of(row) for row in rows]
