"""Carries out wishes to stop jobs: before anything else, and of nobody else's jobs."""

from collections.abc import Sequence

from tasks.slurm.bucket import Urgency
from tasks.slurm.calls import Listing
from tasks.slurm.concluding import Conclusions
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.errors import SlurmError

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
        self._sent_s: dict[tuple[str, str], float] = {}

    def hear(self) -> None:
        """Withdraw what Slurm has not heard of yet, and ask for a look at the rest.

        Nothing is cancelled without a listing that has just shown that an id is still our job's.
        """
        wishes = self._desk.ledger.wishes()
        for entry in wishes:
            if entry.state is LedgerState.PLANNED:
                self._conclusions.withdraw(entry)
        if any(self._is_due(entry) for entry in wishes):
            self._desk.agenda.ask(Urgency.CANCEL, self._desk.clock.steady())

    def cancel(self, listing: Listing, excess: Sequence[str]) -> None:
        """Cancel what is wished, and what is too much.

        Args:
            listing: What squeue has just told, already written into the ledger.
            excess: Slurm's ids of jobs that nobody needs.
        """
        wishes = [entry for entry in self._desk.ledger.wishes() if self._is_due(entry)]
        listed = [entry for entry in self._of_whole_jobs(wishes) if listing.line(entry) is not None]
        now_s = self._desk.clock.steady()
        for entry in wishes:  # what is not listed is on its way to an end; no use to hurry
            self._sent_s[entry.run_dir, entry.name] = now_s
        slurm_jobs = list(dict.fromkeys([*(entry.slurm_job for entry in listed), *excess]))
        if not slurm_jobs:
            return
        self._desk.calls.pay(Urgency.CANCEL)
        try:
            self._desk.calls.slurm.cancel(slurm_jobs)
        except SlurmError as error:
            self._desk.calls.suspect(error)
            for entry in wishes:
                del self._sent_s[entry.run_dir, entry.name]
            return
        for after_s in _LOOK_AFTER_S:
            self._desk.agenda.ask(Urgency.CANCEL, now_s + after_s)

    def _is_due(self, entry: Entry) -> bool:
        if entry.state not in {LedgerState.SUBMITTED, LedgerState.RUNNING}:
            return False
        sent_s = self._sent_s.get((entry.run_dir, entry.name))
        return sent_s is None or self._desk.clock.steady() - sent_s >= _AGAIN_AFTER_S

    def _of_whole_jobs(self, wishes: Sequence[Entry]) -> list[Entry]:
        """Leave out runs that share a job of Slurm with runs that are to go on."""
        shared = {entry.name for entry in wishes if entry.mode == "allocation"}
        if not shared:
            return list(wishes)
        spared = {entry.name for entry in self._desk.ledger.followed() if not entry.wish_cancel}
        return [entry for entry in wishes if entry.mode != "allocation" or entry.name not in spared]
