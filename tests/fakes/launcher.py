"""A launcher whose jobs are where a test says."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.slurm.launcher import JobId, JobState, id_of
from tasks.slurm.plan import JobPlan


class ListedLauncher:
    """What is submitted runs until a test says otherwise; see ``Launcher``.

    No dataclass: Prefect would look for futures in its fields while they change.

    Args:
        states: Where each job is.

    Attributes:
        states: Where each job is now.
        submissions: How often each was submitted, without the times when it was alive.
        cancelled: What was cancelled, in order; it goes on.
        faults: What the next submissions fail with, the last first.
    """

    def __init__(self, states: Mapping[JobId, JobState]) -> None:
        self.states = dict(states)
        self.submissions: Counter[JobId] = Counter()
        self.cancelled: list[JobId] = []
        self.faults: list[Exception] = []

    def submit(self, plan: JobPlan) -> JobId:
        """Run a job at once."""
        return self.submit_all([plan])[0]

    def submit_all(self, plans: Sequence[JobPlan]) -> list[JobId]:
        """Run jobs at once; one that is alive is the same job."""
        if self.faults:
            raise self.faults.pop()
        ids = [id_of(plan.run_dir) for plan in plans]
        self.submissions.update(job for job in ids if not self._is_live(job))
        self.states |= dict.fromkeys(ids, JobState.RUNNING)
        return ids

    def _is_live(self, job: JobId) -> bool:
        return job in self.states and not self.states[job].is_final

    def poll(self, job: JobId) -> JobState:
        """Return where a job is.

        Raises:
            KeyError: It was never submitted.
        """
        return self.states[job]

    def describe(self, job: JobId) -> str:
        """Return where a job is, in a word."""
        return str(self.states.get(job, ""))

    def wait(self, job: JobId, timeout_s: float) -> JobState:
        """Return where a job is, now or after some time."""
        if not self.states[job].is_final:
            threading.Event().wait(timeout_s)
        return self.states[job]

    def cancel(self, job: JobId) -> None:
        """Take note."""
        self.cancelled.append(job)

    def close(self) -> None:
        """End what has not ended."""
        for job, state in self.states.items():
            if not state.is_final:
                self.states[job] = JobState.INTERRUPTED
