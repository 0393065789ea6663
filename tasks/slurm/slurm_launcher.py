"""The launcher for a Slurm cluster: writes jobs into the ledger, and sees them through."""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.background import Background
from tasks.slurm.calls import Clock
from tasks.slurm.charging import charge
from tasks.slurm.commands import SlurmCli, run_command
from tasks.slurm.describing import description, trouble_words
from tasks.slurm.launcher import JobId, JobState, id_of
from tasks.slurm.leader import Leadership
from tasks.slurm.ledger import Ledger
from tasks.slurm.ledger_file import FILE_NAME, LedgerFile, state_directory
from tasks.slurm.plan import JobPlan
from tasks.slurm.reconciler import Reconciler
from tasks.slurm.sightings import Slurm

_log = logging.getLogger(__name__)

LEDGER_NAME = FILE_NAME
LOCK_NAME = "leader.lock"
_COSTS_WITHIN_S = 30.0
"""The accounting of a busy cluster lags; with 10 s, costs were missing on a loaded machine."""
_POLL_S = 0.1


class SlurmLauncher:
    """Runs jobs on a cluster; may be used from several threads.

    A job that is in the ledger already and is not over, whoever has put it there, is the same job.
    Jobs outlive the launcher: one that is killed leaves them to its successor, or to another
    process of the user, which follows them from then on.

    Args:
        config: How the study submits its jobs.
        study_dir: The study, absolute; ``close`` stops its jobs and no others.
        slurm: The commands; default: those on PATH.
        state_dir: Where the ledger is; default: the user's, of this cluster.
        grace_s: Seconds that ``close`` waits for jobs to stop.

    Raises:
        SlurmMissing: Slurm is not installed here.
        SlurmUnreachable: It does not answer.
        LedgerError: The ledger cannot be used.
        OSError: The state directory cannot be made.
    """

    def __init__(
        self,
        config: SlurmLauncherConfig,
        study_dir: Path,
        *,
        slurm: Slurm | None = None,
        state_dir: Path | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self._config = config
        self._study_dir = study_dir.resolve()
        self._grace_s = grace_s
        self._clock = Clock()
        self._closing = threading.Lock()
        self._is_closed = self._is_over = False
        self._partitions: dict[str, str] = {}
        # A command inherits the leader's lock, see ``leader``.
        cli = slurm or SlurmCli(
            lambda argv, timeout_s: run_command(
                argv, timeout_s, inherited=self._leadership.descriptors
            )
        )
        self._leadership = Leadership(Path("/nonexistent"))  # none before the cluster is known
        is_asked = state_dir is None
        state_dir = state_dir or state_directory(cli.cluster())
        path = state_dir / LEDGER_NAME
        self._ledger = Ledger(LedgerFile(path))
        if is_asked:  # only now it is known which bucket that is paid from
            charge(self._ledger.file, 1)
        self._leadership = Leadership(state_dir / LOCK_NAME)
        reconciler = Reconciler(cli, LedgerFile(path), self._leadership, clock=self._clock)
        self._background = Background(reconciler, self._leadership, self._ledger, self._study_dir)

    def submit(self, plan: JobPlan) -> JobId:
        """Queue a job; see ``Launcher``."""
        return self.submit_all([plan])[0]

    def submit_all(self, plans: Sequence[JobPlan]) -> list[JobId]:
        """Queue many jobs; those that can be are submitted as one; see ``Launcher``."""
        with self._closing:
            if plans and not self._is_closed:
                self._partitions |= {
                    id_of(plan.run_dir): plan.resources.partition or ""
                    for plan in plans
                    if plan.resources is not None
                }
                self._ledger.register(self._study_dir, self._config, plans, self._clock.unix())
                self._background.wake()
        return [id_of(plan.run_dir) for plan in plans]

    def poll(self, job: JobId) -> JobState:
        """Return where a job is now, without waiting.

        Raises:
            KeyError: The study has no such job.
            ReconcilerStopped: Nobody follows the jobs any more.
        """
        try:
            state = self._background.state(job).job_state
        except KeyError:  # submitted after we were closed
            if not self._is_closed:
                raise
            return JobState.INTERRUPTED
        return JobState.INTERRUPTED if self._is_over and not state.is_final else state

    def describe(self, job: JobId) -> str:
        """Say where a job is, with Slurm's id, state and reason; see ``Launcher``."""
        try:
            entry = self._ledger.entry(job)
        except sqlite3.Error:  # only told a little later
            return ""
        if entry is None:
            return ""
        words = description(entry, self._partitions.get(job, ""))
        trouble = self._background.trouble()
        if trouble is None or entry.state.job_state.is_final:
            return words
        return f"{words}; {trouble_words(trouble)}"

    def wait(self, job: JobId, timeout_s: float) -> JobState:
        """Wait until a job has ended, or for some time; see ``Launcher``.

        Raises:
            KeyError: The study has no such job.
            ReconcilerStopped: Nobody follows the jobs any more.
        """
        with contextlib.suppress(KeyError):  # then ``poll`` knows better
            self._background.wait({job}, timeout_s)
        return self.poll(job)

    def cancel(self, job: JobId) -> None:
        """Ask a job to stop; one that Slurm has not heard of yet stops at once."""
        self._ledger.wish_cancel([job], self._clock.unix())
        self._background.wake()

    def detach(self) -> None:
        """Follow the jobs no more; they go on, and whoever leads next sees to them."""
        with self._closing:
            self._is_closed = self._is_over = True
            self._background.stop()

    def close(self) -> None:
        """Ask all jobs of the study to stop, and start none any more.

        Waits until they have stopped. What has not by then is stopped by whoever leads next, and
        counts as interrupted.
        """
        with self._closing:
            if self._is_closed:
                return
            going = self._going()
            self._ledger.wish_cancel(going, self._clock.unix())
            self._is_closed = True  # only now: if that failed, another call must try again
            self._background.wake()
            self._background.wait(going, self._grace_s)
            if not going:
                self._wait_for_costs()
            self._is_over = True
            self._background.stop()
            if left := self._going():
                _log.warning(
                    "not known to have stopped: %d of its jobs; run: watershed cancel %s",
                    len(left),
                    self._study_dir.name,
                )

    def _going(self) -> set[str]:
        states = self._ledger.states(self._study_dir)
        return {job for job, state in states.items() if not state.job_state.is_final}

    def _wait_for_costs(self) -> None:
        """Give the accounting, which lags, some time to tell what the last jobs have cost."""
        deadline_s = time.monotonic() + _COSTS_WITHIN_S
        while self._ledger.owes_costs(self._study_dir) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
