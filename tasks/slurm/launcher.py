"""How a job is started, watched and stopped, wherever it runs."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol

from tasks.slurm.plan import JobPlan

JobId = NewType("JobId", str)


class JobState(StrEnum):
    """Where a job is in its life. What is unknown is never final."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Stopped on request; it continues from its last checkpoint when submitted again."""

    @property
    def is_final(self) -> bool:
        """Whether the job will not change its state any more."""
        return self in {JobState.FINISHED, JobState.FAILED, JobState.INTERRUPTED}


class Launcher(Protocol):
    """Starts jobs, and never the same one twice at a time.

    A run directory whose job is alive, whoever started it, is adopted: waited for, not run again.
    When a job has come to a final state, its directory holds a ``result.json`` that says so.
    """

    def submit(self, plan: JobPlan) -> JobId:
        """Queue a job; it starts when there is room.

        Args:
            plan: The job. Its run directory must exist.

        Returns:
            The id to watch it by.
        """
        ...

    def submit_all(self, plans: Sequence[JobPlan]) -> list[JobId]:
        """Queue many jobs, with as few calls as the launcher can; see ``submit``.

        Args:
            plans: The jobs.

        Returns:
            Their ids, in the same order.
        """
        ...

    def poll(self, job: JobId) -> JobState:
        """Return where a job is now, without waiting."""
        ...

    def describe(self, job: JobId) -> str:
        """Say where a job is, for people, with what it is known by outside.

        Args:
            job: The job.

        Returns:
            ``job 4711 on batch: PENDING (Priority)``, ``process 812 on 2 cores: running``; empty
            if nothing is known of it. It changes when there is something new to tell.
        """
        ...

    def wait(self, job: JobId, timeout_s: float) -> JobState:
        """Wait until a job has ended, or for some time.

        Args:
            job: The job.
            timeout_s: Longest wait, in seconds.

        Returns:
            Where it is then; a final state if it has ended.
        """
        ...

    def cancel(self, job: JobId) -> None:
        """Ask a job to stop; it becomes INTERRUPTED soon, unless it ends before."""
        ...

    def close(self) -> None:
        """Ask all jobs to stop, and start none any more."""
        ...


def id_of(run_dir: Path) -> JobId:
    """Return the id of the job of a run directory, where launchers have none of their own."""
    return JobId(str(run_dir))
