"""The real workers of servers: submitted when a server runs, looked after, and sent home.

One thread does this for all servers of a flow. Tasks only show it: of many points only some are
followed at a time, but the workers of none may wait until those of others are over.
"""

import contextvars
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence

from tasks.slurm.background import ReconcilerStopped
from tasks.slurm.errors import SlurmError
from tasks.slurm.launcher import JobId, JobState, Launcher, id_of
from tasks.slurm.ledger_file import LedgerError
from tasks.slurm.plan import JobPlan
from tasks.steps.story import Logger

_POLL_S = 1.0
_FAREWELL_S = 20.0
"""How long workers may take to notice that the server has finished, and to stop when told to."""


class Workers:
    """The jobs of the workers of one server.

    A server may wait long for its node, and again when it was preempted; its workers would burn
    theirs. So they are submitted when it runs, and those that have ended get another chance each
    time that it comes back. Workers that have ended for good are no fault, unless none is left:
    then the server, which would wait for ever, is cancelled.

    Args:
        launcher: Where the jobs are.
        server: The server's job.
        plans: The workers' jobs.

    Attributes:
        over: Set when there is nothing left to do.
        fault: Why there is not, other than that the server has ended; empty if it has.
    """

    def __init__(self, launcher: Launcher, server: JobId, plans: Sequence[JobPlan]) -> None:
        self.over = threading.Event()
        self.fault = ""
        self._launcher = launcher
        self._server = server
        self._plans = plans
        self._was_running = False
        self._alone_since_s: float | None = None
        self._leaving_since_s: float | None = None
        self._is_cancelled = False

    @property
    def jobs(self) -> dict[str, JobId]:
        """Their jobs, submitted or not, by the names of their run directories."""
        return {plan.run_dir.name: id_of(plan.run_dir) for plan in self._plans}

    def look(self, now_s: float) -> None:
        """Do what is due; to be called about once a second until they are over.

        Args:
            now_s: The monotonic clock.

        Raises:
            ReconcilerStopped: Nobody follows the jobs any more.
            LedgerError: The ledger cannot be used.
            SlurmError: Slurm does not answer.
            OSError: A file cannot be written.
        """
        state = self._launcher.poll(self._server)
        if state.is_final:
            self._send_home(now_s)
            return
        is_running = state is JobState.RUNNING
        if is_running and not self._was_running:
            self._launcher.submit_all(self._plans)  # one that lives is the same job
        is_alone = is_running and not any(map(self._is_live, self.jobs.values()))
        self._was_running = is_running
        if not is_alone:
            self._alone_since_s = None
        elif self._alone_since_s is None:  # the server may have sent them home, and end now
            self._alone_since_s = now_s
        elif now_s - self._alone_since_s >= _FAREWELL_S:
            self._launcher.cancel(self._server)
            self.give_up("all workers have ended before the server; see: watershed why")

    def give_up(self, fault: str) -> None:
        """Do nothing for them any more.

        Args:
            fault: Why.
        """
        self.fault = fault
        self.over.set()

    def told(self) -> str:
        """Count them by their states: ``3 finished, 1 interrupted``."""
        states = Counter(map(self._state, self.jobs.values()))
        return ", ".join(f"{states[state]} {state.value}" for state in JobState if states[state])

    def _send_home(self, now_s: float) -> None:
        """Let them end by themselves, then cancel those that do not."""
        left = [worker for worker in self.jobs.values() if self._is_live(worker)]
        if self._leaving_since_s is None:
            self._leaving_since_s = now_s
        left_s = self._leaving_since_s + _FAREWELL_S - now_s
        if not left or left_s <= -_FAREWELL_S:
            self.over.set()
        elif left_s <= 0.0 and not self._is_cancelled:
            for worker in left:
                self._launcher.cancel(worker)
            self._is_cancelled = True

    def _state(self, worker: JobId) -> JobState:
        """Return where a worker is; one that was never submitted waits."""
        try:
            return self._launcher.poll(worker)
        except KeyError:
            return JobState.WAITING

    def _is_live(self, worker: JobId) -> bool:
        """Whether a worker was submitted and has not ended."""
        try:
            return not self._launcher.poll(worker).is_final
        except KeyError:
            return False


def tend(everybody: Sequence[Workers], logger: Logger) -> threading.Thread:
    """Look after the workers of many servers, in a thread of its own, until all are over.

    They are once the launcher is closed, at the latest. What fails for now is tried again.

    Args:
        everybody: The workers of each server; nobody else may call ``look``.
        logger: Where to say what fails.

    Returns:
        The thread, which has begun.
    """
    # Of this flow run: what is logged belongs to it.
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_tend, list(everybody), logger), name="workers", daemon=True
    )
    thread.start()
    return thread


def _tend(left: list[Workers], logger: Logger) -> None:
    told = ""
    while left:
        for workers in left:
            try:
                workers.look(time.monotonic())
            except (LedgerError, SlurmError, sqlite3.OperationalError, OSError) as error:
                if told != (told := str(error)):  # else every second
                    logger.warning("workers cannot be looked after: %s; it is tried again", error)
            except ReconcilerStopped as error:
                workers.give_up(str(error))
            except Exception as error:  # those of the other servers need us
                logger.exception("workers are not looked after any more")
                workers.give_up(f"workers are not looked after any more: {error!r}")
        left = [workers for workers in left if not workers.over.is_set()]
        time.sleep(_POLL_S)
