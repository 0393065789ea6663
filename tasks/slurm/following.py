"""Follows what Slurm has: one listing for all jobs, and the accounting for those that left it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasks.slurm.bucket import Urgency
from tasks.slurm.calls import Listing
from tasks.slurm.concluding import Conclusions, memory_bytes
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.errors import SlurmError
from tasks.slurm.evidence import Found
from tasks.slurm.judgement import DONE, NODE, REFUSED, Action, Told, Verdict, judge, told_of
from tasks.slurm.launcher import JobState
from tasks.slurm.losing import LeftOut, Losses
from tasks.slurm.sightings import HELD_AFTER_REQUEUE, Accounted, Queued
from tasks.slurm.states import Evidence, FailureClass, SlurmState
from tasks.slurm.watching import News

CONFIRM_AFTER_S = 10.0
"""From the first look that misses a job to the one that believes it."""
_DETAILS_WITHIN_S = 10.0
"""For so long the accounting may lag behind before a failure is explained without it."""
_DETAILS_AGAIN_S = 2.0
_START_AFTER_S = 15.0
"""A job that lost its node and starts at once may have its steps killed by its own past."""
_RESTART_AFTER_S = 3.0
"""A job that was requeued in good order: started within a second on the same node, slurmd refuses
it as already killed (seen in 10 of 18 starts below a second, in none of 24 from one second on)."""
_RELEASE_AGAIN_S = 5.0
_RELEASE_WITHIN_S = 121.0
"""For so long Slurm holds a job that it has queued again; looks beyond that would be in vain."""


class Follower:
    """Brings the ledger up to date with what Slurm and the nodes tell of submitted jobs.

    What it remembers is about waiting alone; a successor waits anew.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._conclusions = Conclusions(desk.ledger, desk.clock)
        self._losses = Losses(desk)
        self._stirred: set[str] = set()
        self._since_s: dict[tuple[str, str, str], float] = {}
        # Of a job of Slurm, which runs may share.
        self._released: dict[tuple[str, int], LeftOut] = {}
        self._is_answering = True
        self._culled: set[str] = set()
        self._excess: list[str] = []
        self._is_healthy: bool | None = None

    def hear(self, news: Sequence[News]) -> None:
        """Take note of what nodes have left: a start is believed, an end has to be confirmed."""
        started = []
        now_s = self._desk.clock.steady()
        for entry, found in ((one.entry, one.found) for one in news):
            if entry.state is LedgerState.SUBMITTING:
                self._desk.agenda.ask(Urgency.LOOK, now_s)
            elif found.exit is None:
                if found.evidence is Evidence.ALIVE and entry.state is LedgerState.SUBMITTED:
                    started.append(replace(entry, state=LedgerState.RUNNING))
            elif entry.mode == "allocation":
                self._hear_of_allocation(entry, found)
            else:
                self._stirred.add(entry.run_dir)
                self._desk.agenda.confirm(now_s, is_news=True)
        if started:
            self._desk.ledger.observe(started)

    def follow(self, entries: Iterable[Entry], listing: Listing) -> list[str]:
        """Compare all submitted jobs with a listing.

        Args:
            entries: The jobs.
            listing: What squeue has just told.

        Returns:
            Slurm's ids of what is to be cancelled though nobody wishes it: it has finished.
        """
        desk = self._desk
        self._excess, self._is_healthy, self._is_answering = [], None, True
        stirring = [
            (entry, line)
            for entry in entries
            if entry.state is not LedgerState.SUBMITTING
            and not self._is_quiet(entry, line := listing.line(entry))
        ]
        times: dict[str, float] = {}
        in_question = {
            entry.run_dir for entry, line in stirring if self._losses.is_open(entry, line, times)
        }
        asked = [
            (entry.run_dir, entry.slurm_job, entry.name)
            for entry, line in stirring
            if line is None or _needs_details(line) or entry.run_dir in in_question
        ]
        accounted = desk.calls.accounted(asked) if asked else {}
        observed = []
        for entry, line in stirring:
            rows = None if accounted is None else accounted.get(entry.run_dir, [])
            if line is not None and not entry.name:
                desk.ledger.name(entry, line.name)
                entry = replace(entry, name=line.name)  # noqa: PLW2901  the same job
            found = desk.watch.found(entry, times)
            job = entry
            if line is not None and entry.run_dir in in_question:
                job = self._losses.settle(entry, line, rows, found)
            still = self._follow(job, line, rows, found)
            if still is not None and still != entry:
                observed.append(replace(still, changed_s=desk.clock.unix()))
        if observed:
            desk.ledger.observe(observed)
        return self._excess

    def culled(self, slurm_jobs: Sequence[str]) -> None:
        """Take note of jobs that were cancelled because another one does their work."""
        self._culled.update(slurm_jobs)

    def _is_quiet(self, entry: Entry, line: Queued | None) -> bool:
        return (
            line is not None
            and not line.state.is_final
            and line.state == entry.slurm_state
            and line.restarts == entry.restarts
            and line.reason == entry.reason != HELD_AFTER_REQUEUE
            and entry.run_dir not in self._stirred
            and not any((kind, entry.run_dir, entry.name) in self._since_s for kind in _KINDS)
            and not self._losses.is_waiting(entry, line)
        )

    def _follow(
        self, entry: Entry, line: Queued | None, rows: Sequence[Accounted] | None, found: Found
    ) -> Entry | None:
        """Follow one job; return how it stands, or None if its submission is over."""
        told = self._told(entry, line, rows)
        is_over = told.state.is_final or told.state is SlurmState.ABSENT
        verdict = judge(
            told,
            found,
            wish_cancel=entry.wish_cancel,
            own_uid=os.getuid(),
            memory_bytes=self._memory_bytes(entry) if is_over else None,
        )
        if entry.mode == "allocation":
            verdict = _of_allocation(verdict, found)
        if verdict.failure is FailureClass.CANCELLED_BY_USER and self._is_culled(entry):
            verdict = Verdict(JobState.FAILED, FailureClass.LOST)
        words = ""
        if verdict.failure in _CANCELLED and not entry.wish_cancel:
            if self._losses.is_spent(entry):
                verdict, told = NODE, replace(told, state=SlurmState.NODE_FAIL, reason="")
                entry = replace(entry, nodes=self._losses.newest_node(entry))
            elif self._losses.lacks_nodes(entry, entry.reason):
                verdict, words = REFUSED, f"{entry.reason}: too few nodes are left for it"
        if verdict.is_final and self._lacks_details(entry, line, rows, verdict):
            return entry
        if verdict.is_final:
            self._conclusions.conclude(entry, verdict, told, found, rows or (), words=words)
            self._forget(entry)
            return None
        if verdict.action is Action.ADOPT and found.started is not None:
            started = found.started
            self._desk.ledger.adopt(entry, started.slurm_job, started.submission)
            self._desk.agenda.confirm(self._desk.clock.steady(), is_news=True)
            return None
        return _observed(self._act(entry, verdict, line, found), verdict, line)

    def _told(self, entry: Entry, line: Queued | None, rows: Sequence[Accounted] | None) -> Told:
        told = replace(told_of(line, rows or ()), slurm_job=entry.slurm_job)
        if line is not None or told.state.is_final:
            self._since_s.pop(("missing", entry.run_dir, entry.name), None)
            return told
        # What the accounting says of a job that the controller does not know is out of date.
        is_gone = rows is not None and self._is_gone(entry)
        return replace(told, state=SlurmState.ABSENT if is_gone else SlurmState.UNKNOWN)

    def _is_gone(self, entry: Entry) -> bool:
        """Whether a job was missed twice, some time apart, by a controller that is well."""
        since_s = self._since("missing", entry)
        if self._desk.clock.steady() - since_s < CONFIRM_AFTER_S:
            self._desk.agenda.ask(Urgency.LOOK, since_s + CONFIRM_AFTER_S)
            return False
        if self._is_healthy is None:
            self._is_healthy = self._desk.calls.is_well()
        return self._is_healthy

    def _lacks_details(
        self,
        entry: Entry,
        line: Queued | None,
        rows: Sequence[Accounted] | None,
        verdict: Verdict,
    ) -> bool:
        """Whether a failure cannot be explained yet, as the accounting lags behind the queue."""
        is_told = bool(rows) and rows is not None and rows[-1].state.is_final
        if verdict == DONE or line is None or is_told or not self._desk.calls.has_accounting:
            return False
        if entry.wish_cancel:
            return False
        since_s = self._since("unexplained", entry)
        now_s = self._desk.clock.steady()
        if now_s - since_s >= _DETAILS_WITHIN_S:
            return False
        self._desk.agenda.ask(Urgency.CONFIRM, now_s + _DETAILS_AGAIN_S)
        return True

    def _act(self, entry: Entry, verdict: Verdict, line: Queued | None, found: Found) -> Entry:
        """Do what follows for a job that goes on; return it, with words if there are new ones."""
        now_s = self._desk.clock.steady()
        if verdict.action is Action.LOOK_AGAIN:
            self._desk.agenda.confirm(now_s, is_news=False)
        else:
            self._stirred.discard(entry.run_dir)
        if verdict.action is Action.CANCEL and not entry.wish_cancel:
            self._excess.append(entry.slurm_job)
        is_held = (
            line is not None
            and line.state is SlurmState.PENDING
            and line.reason == HELD_AFTER_REQUEUE
            and line.restarts > 0
        )
        if line is not None and self._losses.lacks_nodes(entry, line.reason):
            self._excess.append(entry.slurm_job)
        if not is_held or line is None:
            self._since_s.pop(("held", entry.run_dir, entry.name), None)
            return entry
        if self._losses.is_spent(entry) and not entry.wish_cancel:
            self._excess.append(entry.slurm_job)
            return entry
        since_s = self._since("held", entry)
        has_left = verdict.action is Action.START_NOW
        start_s = since_s + (_RESTART_AFTER_S if has_left else _START_AFTER_S)
        if self._losses.is_waiting(entry, line):
            return entry
        if now_s < start_s:
            self._desk.agenda.ask(Urgency.CONFIRM, start_s)
        elif has_left or found.evidence is not Evidence.ALIVE:
            return self._release(entry, line)
        return entry

    def _release(self, entry: Entry, line: Queued) -> Entry:
        """Let a held job start, without the nodes that it has lost; return it, with words on them.

        If Slurm does not answer, it is tried again while it holds the job; then that starts by
        itself.
        """
        key = (line.slurm_job, line.restarts)
        left_out = self._released.get(key)
        if left_out is None:
            left_out = self._start_now(line, self._losses.left_out(entry, line))
            if left_out.is_final:
                self._released[key] = left_out
            elif left_out.blamed:
                self._release_again(entry)
        return self._losses.told(entry, line, left_out)

    def _start_now(self, line: Queued, left_out: LeftOut) -> LeftOut:
        """Take back the hold of a job; return which nodes Slurm leaves out then."""
        if not left_out.is_final:
            return left_out
        # Without nodes to leave out it only makes things faster.
        urgency = Urgency.LOOK if left_out.exclude else Urgency.CONFIRM
        if not self._is_answering or self._desk.calls.pay(urgency):
            why_not = left_out.why_not or "Slurm has not been asked yet"
            return replace(left_out, why_not=why_not, is_final=False)
        try:
            self._desk.calls.slurm.start_now(line.slurm_job, exclude=left_out.exclude)
        except SlurmError as error:
            self._is_answering = not error.is_transient
            why_not = left_out.why_not or str(error)
            return replace(left_out, why_not=why_not, is_final=not error.is_transient)
        return left_out

    def _release_again(self, entry: Entry) -> None:
        """Ask for a look that tries again to keep a job from a node, while Slurm holds the job."""
        now_s = self._desk.clock.steady()
        if now_s - self._since("held", entry) < _RELEASE_WITHIN_S:
            self._desk.agenda.ask(Urgency.CONFIRM, now_s + _RELEASE_AGAIN_S)

    def _hear_of_allocation(self, entry: Entry, found: Found) -> None:
        """Conclude a run that has finished, though others go on in the same job of Slurm."""
        if found.evidence is Evidence.FINISHED:
            told = Told(SlurmState.RUNNING, slurm_job=entry.slurm_job)
            self._conclusions.conclude(entry, DONE, told, found)
        else:
            self._stirred.add(entry.run_dir)
        runs = {one.run_dir for one in self._desk.ledger.followed_as(entry.name)}
        if runs and runs <= self._stirred:  # the last of them has ended, and with it the job
            self._desk.agenda.confirm(self._desk.clock.steady(), is_news=True)

    def _is_culled(self, entry: Entry) -> bool:
        """Whether it was not the user who has cancelled it."""
        array = entry.slurm_job.partition("_")[0]
        return not entry.wish_cancel and not self._culled.isdisjoint({entry.slurm_job, array})

    def _since(self, kind: str, entry: Entry) -> float:
        """Return since when something holds of a submission, which is now if it is new."""
        key = (kind, entry.run_dir, entry.name)
        return self._since_s.setdefault(key, self._desk.clock.steady())

    def _forget(self, entry: Entry) -> None:
        self._stirred.discard(entry.run_dir)
        for kind in _KINDS:
            self._since_s.pop((kind, entry.run_dir, entry.name), None)

    def _memory_bytes(self, entry: Entry) -> int | None:
        return memory_bytes(self._desk.ledger.resources(entry))


_KINDS = ("missing", "unexplained", "held")
_CANCELLED = {FailureClass.CANCELLED_BY_USER, FailureClass.CANCELLED_BY_ADMIN}


def _needs_details(line: Queued) -> bool:
    return line.state.is_final and line.state is not SlurmState.COMPLETED


def _of_allocation(verdict: Verdict, found: Found) -> Verdict:
    """Correct what Slurm's word on a job means for one of the runs in it."""
    if found.evidence is Evidence.FINISHED:
        return DONE
    if verdict.state is JobState.RUNNING and found.evidence is Evidence.NONE:
        return replace(verdict, state=JobState.WAITING)
    return verdict


def _observed(entry: Entry, verdict: Verdict, line: Queued | None) -> Entry:
    states = {JobState.WAITING: LedgerState.SUBMITTED, JobState.RUNNING: LedgerState.RUNNING}
    state = states[verdict.state] if verdict.state is not None else entry.state
    if line is None:
        return replace(entry, state=state)
    return replace(
        entry,
        state=state,
        slurm_state=line.state,
        reason=line.reason,
        restarts=line.restarts,
        nodes=line.nodes,
    )
