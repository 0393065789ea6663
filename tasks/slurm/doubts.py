"""Doubts about submissions: was it accepted, is it there twice, should it be there at all?

A job belongs to a submission if it has its name. The id that sbatch told is only where to look: a
controller that was killed forgets the last seconds, and gives the ids away again.
"""

from collections.abc import Collection, Iterable, Sequence

from tasks.slurm.bucket import Urgency
from tasks.slurm.calls import Listing
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.following import CONFIRM_AFTER_S
from tasks.slurm.plan import NAME_PREFIX
from tasks.slurm.sightings import Queued

_CLOCKS_DIFFER_S = 600.0
"""The accounting is asked from so long before the submission."""


class Doubts:
    """Settles doubts with a listing.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._missing_since_s: dict[str, float] = {}

    def settle(self, entries: Iterable[Entry], listing: Listing) -> list[str]:
        """Settle what a listing can settle; ask for another look at the rest.

        Args:
            entries: All jobs that Slurm has, or may have.
            listing: What squeue has just told.

        Returns:
            Slurm's ids of jobs that do what others do already, to be cancelled.
        """
        batches: dict[str, list[Entry]] = {}
        for entry in entries:
            batches.setdefault(entry.name, []).append(entry)
        excess = []
        for name, batch in batches.items():
            lines = listing.named(name)
            if batch[0].state is LedgerState.SUBMITTING:
                self._find(name, batch, lines)
            else:
                excess += self._choose(name, batch, lines)
        return excess + self._orphans(listing, batches)

    def _find(self, name: str, entries: Sequence[Entry], lines: Sequence[Queued]) -> None:
        """Find the job of a submission that sbatch has not confirmed, or find that it has none."""
        ids = _jobs_of(lines)
        slurm_job = ids[0] if len(ids) == 1 else self._claimant(entries) or "".join(ids[:1])
        if slurm_job:
            self._accept(name, slurm_job)
            return
        now_s = self._desk.clock.steady()
        since_s = self._missing_since_s.setdefault(name, now_s)
        if now_s - since_s < CONFIRM_AFTER_S:
            self._desk.agenda.ask(Urgency.LOOK, since_s + CONFIRM_AFTER_S)
            return
        since_unix_s = entries[0].submitting_s - _CLOCKS_DIFFER_S
        rows = self._desk.calls.accounted_name(name, since_unix_s)
        if rows:
            self._accept(name, _job_of(rows[-1].slurm_job))
        elif rows is not None and self._desk.calls.is_well():
            self._take_back(name)

    def _accept(self, name: str, slurm_job: str) -> None:
        self._missing_since_s.pop(name, None)
        self._desk.ledger.accept(name, slurm_job, self._desk.clock.unix())

    def _take_back(self, name: str) -> None:
        del self._missing_since_s[name]
        now_s = self._desk.clock.unix()
        words = "sbatch was not answered, and Slurm does not have it"
        self._desk.ledger.take_back(name, words=words, not_before_s=now_s, now_s=now_s)

    def _claimant(self, entries: Iterable[Entry]) -> str:
        """Return the job that has begun one of the runs; empty if none has."""
        for entry in entries:
            started = self._desk.watch.found(entry).started
            if started is not None and started.submission == entry.submission:
                return _job_of(started.slurm_job)
        return ""

    def _choose(self, name: str, entries: Sequence[Entry], lines: Sequence[Queued]) -> list[str]:
        """Choose one of several jobs of a name: the one that began, else the oldest.

        An older one than that which we have submitted was submitted by hand, as the script says how
        to, or by an sbatch that was not answered: it is next in the queue, so it is adopted. An
        array is adopted, or cancelled, as a whole; not for one that has only some of its tasks. Of
        the array that we follow, tasks may be live that we do not follow any more: Slurm has queued
        again what we had given up.
        """
        known = _job_of(entries[0].slurm_job)
        live = [line for line in lines if not line.state.is_final]
        ids = _jobs_of(live)
        if ids in ([], [known]):
            followed = {entry.slurm_job for entry in entries}
            return [line.slurm_job for line in live if line.slurm_job not in followed]
        whole = _whole(live, entries)
        claimant = self._claimant(entries)
        chosen = known
        if claimant in whole:
            chosen = claimant
        elif known not in _jobs_of(lines):
            chosen = next(iter(whole), ids[0])
        elif not claimant:
            chosen = min([one for one in whole if _age(one) < _age(known)], key=_age, default=known)
        if chosen != known:
            self._desk.ledger.readdress(name, chosen, self._desk.clock.unix())
        return [one for one in whole if one != chosen]

    def _orphans(self, listing: Listing, followed: Collection[str]) -> list[str]:
        """Find live jobs of submissions that are over.

        If the job waits to be submitted again, that is what it waits for, and it is adopted. A job
        that the user has submitted by hand is nobody's to cancel, though it has such a name: ours
        has the id that sbatch told, or, of a submission that was not answered, any.
        """
        names = {name for name in listing.live_names() if name.startswith(NAME_PREFIX)}
        orphans: list[str] = []
        for name in sorted(self._desk.ledger.names(names - set(followed))):
            ids = _jobs_of(line for line in listing.named(name) if not line.state.is_final)
            if self._desk.ledger.is_planned(name):
                self._accept(name, ids[0])
            else:
                ours = {_job_of(one) for one in self._desk.ledger.slurm_jobs(name)}
                orphans += [one for one in ids if one in ours or not ours]
        return orphans


def _jobs_of(lines: Iterable[Queued]) -> list[str]:
    return list(dict.fromkeys(_job_of(line.slurm_job) for line in lines))


def _whole(lines: Sequence[Queued], entries: Sequence[Entry]) -> list[str]:
    """Return the jobs that can do all that has not begun; of arrays some may have fewer tasks."""
    needed = {entry.task for entry in entries if entry.state is LedgerState.SUBMITTED}
    tasks: dict[str, set[int | None]] = {}
    for line in lines:
        job, _, task = line.slurm_job.partition("_")
        tasks.setdefault(job, set()).add(int(task) if task else None)
    return [job for job, own in tasks.items() if needed <= own]


def _age(slurm_job: str) -> int:
    """Slurm numbers its jobs in the order in which they are submitted."""
    return int(slurm_job.partition("+")[0])


def _job_of(slurm_job: str) -> str:
    """Return the id of the whole array for a task of it."""
    return slurm_job.partition("_")[0]
