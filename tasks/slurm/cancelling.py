"""Carries out wishes to stop jobs: before anything else, and of nobody else's jobs."""

import logging
from collections.abc import Sequence

from tasks.slurm.agenda import unanswered_s
from tasks.slurm.bucket import Urgency
from tasks.slurm.calls import Listing
from tasks.slurm.concluding import Conclusions
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.errors import SlurmError

_log = logging.getLogger(__name__)

_AGAIN_AFTER_S = 20.0
"""A job that is still there so long after its scancel is cancelled again."""
_LOOK_AFTER_S = (1.0, 4.0, 8.0)


class Canceller:
    """Cancels what is wished.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._conclusions = Conclusions(desk.ledger, desk.clock)
        self._again_s: dict[tuple[str, str], float] = {}
        self._heard: set[tuple[str, str]] = set()
        self._num_failed = 0

    def hear(self) -> None:
        """Withdraw what Slurm has not heard of yet, and ask for a look at the rest.

        Nothing is cancelled without a listing that has just shown that an id is still our job's.
        """
        wishes = self._desk.ledger.wishes()
        for entry in wishes:
            if entry.state is LedgerState.PLANNED:
                self._conclusions.withdraw(entry)
        due = {_key(entry) for entry in wishes if self._is_due(entry)}
        if due:
            self._desk.agenda.insist(self._desk.clock.steady(), is_news=bool(due - self._heard))
        self._heard = due

    def cancel(self, listing: Listing, excess: Sequence[str]) -> None:
        """Cancel what is wished, and what is too much.

        Args:
            listing: What squeue has just told, already written into the ledger.
            excess: Slurm's ids of jobs that nobody needs.
        """
        wishes = [entry for entry in self._desk.ledger.wishes() if self._is_due(entry)]
        listed = [entry for entry in self._of_whole_jobs(wishes) if listing.line(entry) is not None]
        now_s = self._desk.clock.steady()
        again_s = dict.fromkeys(map(_key, wishes), now_s + _AGAIN_AFTER_S)
        self._again_s |= again_s  # what is not listed is on its way to an end; no use to hurry
        slurm_jobs = list(dict.fromkeys([*(entry.slurm_job for entry in listed), *excess]))
        if not slurm_jobs:
            return
        self._desk.calls.charge()
        try:
            self._desk.calls.slurm.cancel(slurm_jobs)
        except SlurmError as error:
            if self._num_failed == 0:
                _log.warning("jobs could not be cancelled, which is tried again: %s", error)
            self._num_failed += 1
            delay_s = unanswered_s(self._num_failed, with_wish=True)
            self._again_s |= dict.fromkeys(again_s, now_s + delay_s)
            return
        self._num_failed = 0
        for after_s in _LOOK_AFTER_S:
            self._desk.agenda.ask(Urgency.CANCEL, now_s + after_s)

    def _is_due(self, entry: Entry) -> bool:
        if entry.state not in {LedgerState.SUBMITTED, LedgerState.RUNNING}:
            return False
        again_s = self._again_s.get(_key(entry))
        return again_s is None or self._desk.clock.steady() >= again_s

    def _of_whole_jobs(self, wishes: Sequence[Entry]) -> list[Entry]:
        """Leave out runs that share a job of Slurm with runs that are to go on."""
        shared = {entry.name for entry in wishes if entry.mode == "allocation"}
        if not shared:
            return list(wishes)
        spared = {entry.name for entry in self._desk.ledger.followed() if not entry.wish_cancel}
        return [entry for entry in wishes if entry.mode != "allocation" or entry.name not in spared]


def _key(entry: Entry) -> tuple[str, str]:
    return entry.run_dir, entry.name
