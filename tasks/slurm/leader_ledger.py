"""The ledger as the leader writes it: each function is a step in the life of a job."""

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.entries import Entry
from tasks.slurm.failures import Ended
from tasks.slurm.ledger import Ledger
from tasks.slurm.plan import SERVER_MODULE, Batch, JobPlan, job_name
from tasks.slurm.states import FailureClass


class LeaderLedger(Ledger):
    """What the leader alone may do, beside what everybody may."""

    def due(self, now_s: float) -> list[tuple[str, str]]:
        """Return study and run directory of the jobs that are to be submitted now, in order."""
        return self.file.read(
            "SELECT study_dir, run_dir FROM jobs WHERE state = 'planned' AND NOT wish_cancel"
            " AND not_before_s <= ? ORDER BY rowid",
            (now_s,),
        )

    def num_changes(self) -> int:
        """Return a number that grows with everything that is written through this connection."""
        return self.file.num_changes()

    def num_followed(self) -> int:
        """Count the jobs that Slurm has, or may have."""
        query = "SELECT COUNT(*) FROM jobs WHERE state IN ('submitting', 'submitted', 'running')"
        return int(self.file.read(query)[0][0])

    def followed(self) -> list[Entry]:
        """Return what Slurm has, or may have: SUBMITTING, SUBMITTED and RUNNING."""
        return self._entries("WHERE state IN ('submitting', 'submitted', 'running')")

    def wishes(self) -> list[Entry]:
        """Return what is to be cancelled and is not over."""
        return self._entries(
            "WHERE wish_cancel AND state NOT IN ('finished', 'failed', 'interrupted')"
        )

    def studies_owing_costs(self) -> set[str]:
        """Return the studies of such jobs as ``owed_costs`` returns."""
        rows = self.file.read(
            "SELECT DISTINCT study_dir FROM jobs WHERE needs_costs"
            " AND state IN ('finished', 'failed', 'interrupted')"
        )
        return {study_dir for (study_dir,) in rows}

    def owed_costs(self, most: int) -> list[Entry]:
        """Return so many jobs that are over and whose costs have not been written."""
        return self._entries(
            "WHERE needs_costs AND state IN ('finished', 'failed', 'interrupted') LIMIT ?", most
        )

    def plans(self, run_dirs: Iterable[str]) -> list[JobPlan]:
        """Return what jobs run, in the order asked for.

        Raises:
            ValidationError: One of them cannot be read, see ``unreadable``.
        """
        found = {}
        for run_dir in run_dirs:
            rows = self.file.read("SELECT plan FROM jobs WHERE run_dir = ?", (run_dir,))
            found[run_dir] = JobPlan.model_validate_json(rows[0][0])
        return list(found.values())

    def resources(self, entry: Entry) -> SlurmResources:
        """Return what a job asks of Slurm; what is usual if that cannot be read."""
        try:
            (plan,) = self.plans([entry.run_dir])
        except ValidationError:
            return SlurmResources()
        return plan.resources or self.launcher(entry.study_dir)

    def launcher(self, study_dir: str) -> SlurmLauncherConfig:
        """Return how a study submits its jobs; one that retries nothing if that cannot be read."""
        rows = self.file.read("SELECT launcher FROM studies WHERE study_dir = ?", (study_dir,))
        try:
            return SlurmLauncherConfig.model_validate_json(rows[0][0])
        except ValidationError:
            return SlurmLauncherConfig(max_retries=0, requeue=False)

    def unreadable(self, entry: Entry) -> str:
        """Say that another version of Watershed has written a job that this one cannot read.

        Args:
            entry: The job.

        Returns:
            What to do; empty if it can be read.
        """
        rows = self.file.read(
            "SELECT launcher FROM studies WHERE study_dir = ?", (entry.study_dir,)
        )
        try:
            self.plans([entry.run_dir])
            SlurmLauncherConfig.model_validate_json(rows[0][0])
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            return (
                f"another version of Watershed has planned it, and this one cannot read {fields}; "
                "run the study again with either version"
            )
        return ""

    def launchers(self) -> list[SlurmLauncherConfig]:
        """Return how the studies submit their jobs that have jobs which are not over."""
        rows = self.file.read(
            "SELECT launcher FROM studies WHERE study_dir IN (SELECT study_dir FROM jobs WHERE"
            " state IN ('planned', 'submitting', 'submitted', 'running'))"
        )
        found = []
        for (text,) in rows:
            with contextlib.suppress(ValidationError):
                found.append(SlurmLauncherConfig.model_validate_json(text))
        return found

    def live_studies(self) -> set[str]:
        """Return the studies that have jobs which are not over."""
        rows = self.file.read(
            "SELECT DISTINCT study_dir FROM jobs WHERE"
            " state IN ('planned', 'submitting', 'submitted', 'running')"
        )
        return {study_dir for (study_dir,) in rows}

    def num_jobs(self, name: str) -> int:
        """Return how many jobs were submitted under a name."""
        rows = self.file.read("SELECT COUNT(*) FROM submissions WHERE name = ?", (name,))
        return int(rows[0][0])

    def most_running(self, study_dir: str) -> int:
        """Return how many jobs of a study may run at the same time as things stand.

        Servers do not count: their workers do.
        """
        rows = self.file.read(
            "SELECT COUNT(*), MAX(throttle) FROM jobs WHERE study_dir = ? AND"
            " state IN ('submitting', 'submitted', 'running') AND instr(plan, ?) = 0"
            " GROUP BY name",
            (study_dir, f'"module":"{SERVER_MODULE}"'),
        )
        return sum(min(count, throttle or count) for count, throttle in rows)

    def names(self, names: Iterable[str]) -> set[str]:
        """Return those names that submissions of the ledger have, or had."""
        known = set()
        for name in names:
            if self.file.read("SELECT 1 FROM submissions WHERE name = ? LIMIT 1", (name,)):
                known.add(name)
        return known

    def slurm_jobs(self, name: str) -> set[str]:
        """Return the ids, of tasks where it was an array, that submissions of a name have had."""
        rows = self.file.read("SELECT DISTINCT slurm_job FROM submissions WHERE name = ?", (name,))
        return {slurm_job for (slurm_job,) in rows if slurm_job}

    def is_planned(self, name: str) -> bool:
        """Say whether jobs wait to be submitted again whose newest submission has this name."""
        query = "SELECT 1 FROM jobs WHERE name = ? AND state = 'planned' AND NOT wish_cancel"
        return bool(self.file.read(query, (name,)))

    def failures(self, entry: Entry) -> list[Ended]:
        """Return how a job's earlier submissions failed since the user has asked for it."""
        return [
            Ended(FailureClass(one.failure), one.node, one.moved)
            for one in self.submissions(entry.run_dir)
            if one.failure and one.submission >= entry.first_submission and one.name != entry.name
        ]

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

    def end(self, entry: Entry, ended: Ended | None, words: str, now_s: float) -> None:
        """Write down that a submission is over, and what becomes of its job.

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
        }
        with self.file.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = :state, slurm_state = :slurm_state, failure = :failure,"
                " message = :words, exclude = :exclude, not_before_s = :not_before_s,"
                " changed_s = :now_s WHERE run_dir = :run_dir",
                row,
            )
            connection.execute(
                "UPDATE submissions SET ended_s = :now_s, failure = :why, node = :blamed,"
                " moved = :moved, words = :words WHERE run_dir = :run_dir AND name = :name"
                " AND ended_s IS NULL",  # the history of a job that waits for a retry stays
                row,
            )

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
