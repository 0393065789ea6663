"""The ledger as the leader reads it: what is to be done, and what is known of it."""

import contextlib
from collections.abc import Iterable

from pydantic import ValidationError

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.entries import Entry
from tasks.slurm.failures import Ended
from tasks.slurm.ledger import Ledger
from tasks.slurm.plan import SERVER_MODULE, JobPlan
from tasks.slurm.states import FailureClass


class LeaderView(Ledger):
    """What the leader asks, beside what everybody may."""

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

    def num_followed_by_study(self) -> dict[str, int]:
        """Return study -> number of its jobs that Slurm has, or may have."""
        rows = self.file.read(
            "SELECT study_dir, COUNT(*) FROM jobs"
            " WHERE state IN ('submitting', 'submitted', 'running') GROUP BY study_dir"
        )
        return {study_dir: int(count) for study_dir, count in rows}

    def followed(self) -> list[Entry]:
        """Return what Slurm has, or may have: SUBMITTING, SUBMITTED and RUNNING."""
        return self._entries("WHERE state IN ('submitting', 'submitted', 'running')")

    def followed_as(self, name: str) -> list[Entry]:
        """Return the jobs of a submission that are not over."""
        return self._entries(
            "WHERE name = ? AND state IN ('submitting', 'submitted', 'running')", name
        )

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
        return plan.resources or self.launcher(entry.study_dir).resources()

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
        """Return how a job has failed since the user has asked for it, oldest first.

        Of each submission the nodes that were lost under it, though Slurm has queued it again; then
        how it ended, if it is an earlier one.
        """
        found = []
        for one in self.submissions(entry.run_dir):
            if one.submission < entry.first_submission:
                continue
            for loss in self.losses(entry.run_dir, one.name):
                found.append(Ended(FailureClass.NODE_FAILURE, loss.node, loss.moved))
            if one.failure and one.name != entry.name:
                found.append(Ended(FailureClass(one.failure), one.node, one.moved))
        return found
