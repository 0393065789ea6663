"""The ledger as the leader writes it: each function is a step in the life of a job."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from tasks.slurm.entries import Entry, Loss
from tasks.slurm.failures import Ended
from tasks.slurm.leader_view import LeaderView
from tasks.slurm.ledger import CANCEL_AND_AGAIN
from tasks.slurm.plan import Batch, job_name


class LeaderLedger(LeaderView):
    """What the leader alone may write."""

    def begin(self, batch: Batch, submission: int, now_s: float) -> bool:
        """Write down that a batch is being submitted; when this returns, it is on the disk.

        Args:
            batch: The jobs; all PLANNED.
            submission: Number of the submission.
            now_s: Unix time.

        Returns:
            Whether it may be submitted; False, and nothing is changed, if one of the jobs has been
            cancelled in the meantime.
        """
        name = job_name(batch.key, submission)
        rows = [
            {
                "run_dir": str(job.run_dir),
                "submission": submission,
                "name": name,
                "mode": batch.mode,
                "task": task if batch.mode == "array" else None,
                "throttle": batch.max_running,
                "now_s": now_s,
            }
            for task, job in enumerate(batch.jobs)
        ]
        run_dirs = [str(job.run_dir) for job in batch.jobs]
        with self.file.transaction(is_durable=True) as connection:
            if self._num_withdrawn(connection, run_dirs):
                return False
            connection.executemany(
                "UPDATE jobs SET state = 'submitting', submission = :submission, name = :name,"
                " mode = :mode, task = :task, throttle = :throttle,"
                " submitting_s = :now_s, changed_s = :now_s,"
                " slurm_job = '', slurm_state = '', reason = '', restarts = 0, nodes = '',"
                " message = '', needs_costs = 1 WHERE run_dir = :run_dir",
                rows,
            )
            connection.executemany(
                "INSERT OR REPLACE INTO submissions (run_dir, name, submission, submitting_s)"
                " VALUES (:run_dir, :name, :submission, :now_s)",
                rows,
            )
        return True

    def accept(self, name: str, slurm_job: str, now_s: float) -> None:
        """Write down that Slurm has taken a submission.

        Args:
            name: Its name.
            slurm_job: Slurm's id of the job, or of the whole array.
            now_s: Unix time.
        """
        row = {"name": name, "slurm_job": slurm_job, "now_s": now_s}
        with self.file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'submitted', changed_s = :now_s, submission = (SELECT"
                " submission FROM submissions AS s WHERE s.run_dir = jobs.run_dir AND s.name ="
                " :name) WHERE name = :name AND state IN ('submitting', 'planned')",
                row,
            )
            connection.execute(
                "UPDATE submissions SET ended_s = NULL, failure = '', words = '' WHERE name = :name"
                " AND run_dir IN (SELECT run_dir FROM jobs WHERE name = :name"
                " AND state IN ('submitted', 'running'))",
                row,
            )
            _readdress(connection, row)

    def readdress(self, name: str, slurm_job: str, now_s: float) -> None:
        """Write down that a submission is another job of Slurm than was thought; see ``accept``."""
        row = {"name": name, "slurm_job": slurm_job, "now_s": now_s}
        with self.file.transaction() as connection:
            _readdress(connection, row)

    def name(self, entry: Entry, name: str) -> None:
        """Write down Slurm's name of a submission that we have not made."""
        row = vars(entry) | {"name": name}
        with self.file.transaction() as connection:
            condition = "SET name = :name WHERE run_dir = :run_dir AND name = ''"
            connection.execute(f"UPDATE jobs {condition}", row)
            connection.execute(f"UPDATE OR REPLACE submissions {condition}", row)

    def adopt(self, entry: Entry, slurm_job: str, submission: int) -> None:
        """Write down that a job's run is done by a submission that we have not made.

        Args:
            entry: The job.
            slurm_job: Slurm's id of who does it.
            submission: Number of the submission.
        """
        row = vars(entry) | {"slurm_job": slurm_job, "submission": submission}
        if submission != entry.submission:
            row["name"] = ""  # see ``name``
        with self.file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'running', slurm_job = :slurm_job, slurm_state = '',"
                " name = :name, submission = :submission, needs_costs = 1"
                " WHERE run_dir = :run_dir",
                row,
            )
            connection.execute(
                "INSERT OR REPLACE INTO submissions"
                " (run_dir, name, submission, slurm_job, submitting_s)"
                " VALUES (:run_dir, :name, :submission, :slurm_job, :submitting_s)",
                row,
            )

    def take_back(self, name: str, *, words: str, not_before_s: float, now_s: float) -> None:
        """Plan the jobs of a submission again that Slurm does not have, under the same number.

        Args:
            name: Its name.
            words: Why, for people.
            not_before_s: Unix time before which it is not tried again.
            now_s: Unix time.
        """
        with self.file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'planned', submission = submission - 1, message = ?,"
                " not_before_s = ?, changed_s = ? WHERE name = ? AND state = 'submitting'",
                (words, not_before_s, now_s, name),
            )
            connection.execute(
                "UPDATE submissions SET ended_s = ?, words = ? WHERE name = ?",
                (now_s, words, name),
            )

    def tell_waiting(self, run_dirs: Iterable[str], words: str, now_s: float) -> None:
        """Write down, for people, what planned jobs wait for."""
        with self.file.transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET message = ?, changed_s = ? WHERE run_dir = ?"
                " AND state = 'planned' AND message != ?",
                [(words, now_s, one, words) for one in run_dirs],
            )

    def observe(self, entries: Iterable[Entry]) -> None:
        """Write down how jobs stand that are not over."""
        with self.file.transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET state = :state, slurm_job = :slurm_job,"
                " slurm_state = :slurm_state, reason = :reason, restarts = :restarts,"
                " nodes = :nodes, message = :message, changed_s = :changed_s"
                " WHERE run_dir = :run_dir AND submission = :submission",
                [vars(entry) for entry in entries],
            )

    def lose(self, entry: Entry, loss: Loss) -> None:
        """Write down that a node was lost under a submission that Slurm has queued again."""
        row = vars(entry) | vars(loss)
        with self.file.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO losses (run_dir, name, restarts, node, moved, words)"
                " VALUES (:run_dir, :name, :restarts, :node, :moved, :words)",
                row,
            )

    def end(self, entry: Entry, ended: Ended | None, words: str, now_s: float) -> None:
        """Write down that a submission is over, and what becomes of its job.

        One that was asked for again after it was cancelled begins anew; earlier failures do not
        count. If it has finished all the same, that is what was asked for.

        Args:
            entry: The job as it is to stand from now on: final, or PLANNED again.
            ended: Why the submission failed; None if it did not.
            words: Why it ended and what follows, for people.
            now_s: Unix time.
        """
        row = vars(entry) | {
            "now_s": now_s,
            "words": words,
            "why": ended.failure if ended else "",
            "blamed": ended.node if ended else "",
            "moved": ended.moved if ended else False,
            "again": CANCEL_AND_AGAIN,
        }
        with self.file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = :state, slurm_state = :slurm_state, failure = :failure,"
                " message = :words, exclude = :exclude, not_before_s = :not_before_s,"
                " changed_s = :now_s WHERE run_dir = :run_dir",
                row,
            )
            connection.execute(
                "UPDATE jobs SET state = 'planned', slurm_state = '', failure = '', exclude = '',"
                " not_before_s = 0, wish_cancel = 0, first_submission = submission + 1"
                " WHERE run_dir = :run_dir AND wish_cancel = :again"
                " AND state IN ('failed', 'interrupted')",
                row,
            )
            connection.execute(
                "UPDATE submissions SET ended_s = :now_s, failure = :why, node = :blamed,"
                " moved = :moved, words = :words WHERE run_dir = :run_dir AND name = :name"
                " AND ended_s IS NULL",  # the history of a job that waits for a retry stays
                row,
            )

    def suffer(self, words: str, now_s: float) -> None:
        """Write down that Slurm has not answered.

        Args:
            words: What its command said instead; kept of the first time alone.
            now_s: Unix time.
        """
        with self.file.transaction() as connection:
            connection.execute("UPDATE trouble SET asked_s = ?", (now_s,))
            connection.execute(
                "INSERT INTO trouble SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM trouble)",
                (words, now_s, now_s),
            )

    def recover(self) -> None:
        """Write down that Slurm has answered."""
        with self.file.transaction() as connection:
            connection.execute("DELETE FROM trouble")

    def costs_written(self, run_dirs: Iterable[str]) -> None:
        """Write down that the costs of jobs are on the disk."""
        with self.file.transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET needs_costs = 0 WHERE run_dir = ?", [(one,) for one in run_dirs]
            )

    def _num_withdrawn(self, connection: sqlite3.Connection, run_dirs: Sequence[str]) -> int:
        """Count jobs that are not PLANNED any more, or cancelled."""
        query = "SELECT 1 FROM jobs WHERE run_dir = ? AND state = 'planned' AND NOT wish_cancel"
        return sum(connection.execute(query, (one,)).fetchone() is None for one in run_dirs)


def _readdress(connection: sqlite3.Connection, row: Mapping[str, object]) -> None:
    connection.execute(
        "UPDATE jobs SET slurm_job = :slurm_job ||"
        " CASE WHEN task IS NULL THEN '' ELSE '_' || task END, slurm_state = '',"
        " changed_s = :now_s WHERE name = :name AND state IN ('submitted', 'running')",
        row,
    )
    connection.execute(
        "UPDATE submissions SET slurm_job = (SELECT slurm_job FROM jobs"
        " WHERE jobs.run_dir = submissions.run_dir) WHERE name = :name"
        " AND run_dir IN (SELECT run_dir FROM jobs WHERE name = :name)",
        row,
    )
