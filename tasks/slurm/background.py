"""Keeps the ledger's jobs going in a thread, and tells those who wait how they stand."""

import logging
import sqlite3
import threading
import time
from pathlib import Path

from tasks.slurm.entries import LedgerState, Trouble
from tasks.slurm.leader import Leadership
from tasks.slurm.ledger import Ledger
from tasks.slurm.reconciler import Reconciler

_log = logging.getLogger(__name__)

_AFTER_TROUBLE_S = 2.0
_LOOK_FOR_STUCK_S = 60.0


class ReconcilerStopped(RuntimeError):  # noqa: N818  an error all the same
    """The thread that follows the jobs has died; the jobs go on, and are found again by name."""


class Background:
    """Steps a reconciler in a thread of its own.

    Args:
        reconciler: The reconciler; the thread's alone from now on.
        leadership: Its lock.
        ledger: Another view of the same ledger.
        study_dir: The study whose jobs are waited for.
    """

    def __init__(
        self, reconciler: Reconciler, leadership: Leadership, ledger: Ledger, study_dir: Path
    ) -> None:
        self._reconciler = reconciler
        self._leadership = leadership
        self._ledger = ledger
        self._study_dir = study_dir
        self._wake = threading.Event()
        self._is_stopping = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._states: dict[str, LedgerState] = ledger.states(study_dir)
        self._trouble: Trouble | None = None
        self._version = -1
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new in the ledger."""
        with self._changed:
            self._states.update(self._ledger.states(self._study_dir))
        self._wake.set()

    def state(self, run_dir: str) -> LedgerState:
        """Return where a job of the study is.

        Raises:
            KeyError: The study has no such job.
            ReconcilerStopped: Nobody follows the jobs any more.
        """
        with self._changed:
            return self._state(run_dir)

    def trouble(self) -> Trouble | None:
        """Return that Slurm does not answer, whichever process has found that; None if it does."""
        with self._changed:
            return self._trouble

    def wait(self, run_dirs: set[str], timeout_s: float) -> bool:
        """Wait until jobs of the study are over, or for some time.

        Args:
            run_dirs: The jobs.
            timeout_s: Longest wait.

        Returns:
            Whether all are over, or nobody waits any more.

        Raises:
            KeyError: The study has no such job.
            ReconcilerStopped: Nobody follows the jobs any more.
        """

        def are_over() -> bool:
            return self._is_stopping or all(
                self._state(run_dir).job_state.is_final for run_dir in run_dirs
            )

        with self._changed:
            return self._changed.wait_for(are_over, timeout_s)

    def stop(self) -> None:
        """End the thread, and lead no more; jobs go on."""
        self._wake.set()
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _state(self, run_dir: str) -> LedgerState:
        if self._error is not None:
            raise ReconcilerStopped(
                f"jobs are not followed any more: {self._error!r}; they go on, and running the "
                "study again finds them"
            ) from self._error
        return self._states[run_dir]

    def _run(self) -> None:
        looked_s = time.monotonic()
        try:
            while not self._is_stopping:
                pause_s = self._step()
                self._publish()
                if time.monotonic() - looked_s > _LOOK_FOR_STUCK_S:
                    looked_s = time.monotonic()
                    self._warn_of_stuck_leader()
                self._wake.wait(pause_s)
                self._wake.clear()
        except Exception as error:  # noqa: BLE001  the entry point of a thread
            _log.exception("the reconciler has died")
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._reconciler.resign()

    def _step(self) -> float:
        try:
            return self._reconciler.step()
        except (OSError, sqlite3.OperationalError) as error:  # a full disk, a stale file handle
            _log.warning("jobs cannot be followed for now: %s", error)
            return _AFTER_TROUBLE_S

    def _publish(self) -> None:
        try:
            version = self._ledger.version()
            if version == self._version:
                return
            states = self._ledger.states(self._study_dir)
            trouble = self._ledger.trouble()
        except sqlite3.OperationalError as error:
            _log.warning("the ledger cannot be read for now: %s", error)
            return
        with self._changed:
            self._version = version
            self._states.update(states)
            self._trouble = trouble
            self._changed.notify_all()

    def _warn_of_stuck_leader(self) -> None:
        if not self._leadership.is_held and (holder := self._leadership.stuck_holder()):
            _log.warning(
                "%s leads, and has done nothing for minutes; continue or end it: jobs wait", holder
            )
