"""Nodes that are lost under jobs which Slurm itself queues again.

Such a job's submission goes on, and Slurm gives it the same node again when that is back: a job
that ends its nodes would do so for ever. So each loss is counted as that of a job which must not be
queued again (see ``failures``): the node is left out from then on, and beyond the limit the job is
cancelled, and has failed. That a node is left out is told when Slurm has done it, not before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.bucket import Urgency
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, Loss
from tasks.slurm.errors import SlurmError
from tasks.slurm.evidence import Found, progressed
from tasks.slurm.failures import Ended, GiveUp, Retry, next_step
from tasks.slurm.sightings import HELD_AFTER_REQUEUE, NO_FITTING_NODES, Accounted, Queued
from tasks.slurm.states import Evidence, FailureClass, SlurmState

_TOLD_WITHIN_S = 30.0
"""For so long the accounting may lag behind before the node's own files have to do."""
_AGAIN_S = 5.0
_NODES_S = 60.0
"""So long an answer about the cluster's nodes is good."""


@dataclass(frozen=True)
class LeftOut:
    """Nodes that a job is not to get again, and what is told of them.

    Attributes:
        blamed: The nodes that were lost; empty if nothing is to be changed.
        exclude: All nodes that Slurm is to leave out, the user's own too, with commas; empty for no
            change.
        why_not: Why they are not left out; empty if they are, once Slurm has taken ``exclude``.
        is_final: Whether that is the last word; else it is tried again.
    """

    blamed: tuple[str, ...] = ()
    exclude: str = ""
    why_not: str = ""
    is_final: bool = True

    @property
    def words(self) -> str:
        """What has become of the nodes, for people: a clause; empty if there are none."""
        if not self.blamed:
            return ""
        nodes, are = ", ".join(self.blamed), "is" if len(self.blamed) == 1 else "are"
        if not self.why_not:
            return f"{nodes} {are} left out from now on"
        if self.is_final:
            return f"{nodes} {are} not left out: {self.why_not}"
        # A call without an answer may have done it all the same.
        return f"it may get {nodes} again: {self.why_not}"


class Losses:
    """Finds lost nodes, and says what follows for their jobs.

    What it remembers is about waiting alone; what it has found stands in the ledger.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._settled: set[tuple[str, str, int]] = set()
        self._since_s: dict[tuple[str, str, int], float] = {}
        self._nodes: dict[str, frozenset[str]] = {}
        self._nodes_s = -_NODES_S
        self._nodes_failed_s = -_AGAIN_S

    def is_open(self, entry: Entry, line: Queued | None, times: dict[str, float]) -> bool:
        """Say whether a job was queued again, and it is not known yet what had ended it.

        Args:
            entry: The job.
            line: Its line in the queue; None if it has left it.
            times: The file systems' times, see ``Watch.found``.
        """
        if line is None or not line.restarts or line.state.is_final:
            return False
        if entry.wish_cancel or not entry.name:
            return False
        key = _key(entry, line)
        is_new = line.restarts > entry.restarts or line.reason == HELD_AFTER_REQUEUE
        if key in self._settled or not (is_new or key in self._since_s):
            return False
        found = self._desk.watch.found(entry, times)
        if found.exit is None or not _is_of_last(found, line):
            return True
        self._settle(key)  # it has ended by itself: preempted, or at its time limit
        return False

    def settle(
        self, entry: Entry, line: Queued, rows: Sequence[Accounted] | None, found: Found
    ) -> Entry:
        """Find whether a node was lost under a job in question, and write it down.

        Without the accounting's word, a job has lost its node that had begun and left no exit.

        Args:
            entry: The job.
            line: Its line in the queue.
            rows: Its incarnations in the accounting, oldest first; None if that does not answer.
            found: What the node has left.

        Returns:
            The job, with words if a node was lost.
        """
        key = _key(entry, line)
        now_s = self._desk.clock.steady()
        waited_s = now_s - self._since_s.setdefault(key, now_s)
        ended = [row for row in rows or () if row.ended_s is not None]
        if len(ended) >= line.restarts:
            is_lost, node = ended[-1].state is SlurmState.NODE_FAIL, ended[-1].nodes
        elif self._desk.calls.has_accounting and waited_s < _TOLD_WITHIN_S:
            self._desk.agenda.ask(Urgency.CONFIRM, now_s + _AGAIN_S)
            return entry
        elif found.evidence is Evidence.ALIVE and _is_of_last(found, line):
            return entry
        else:
            is_lost = found.exit is None and _is_of_last(found, line)
            node = found.started.node if found.started is not None else ""
        self._settle(key)
        return self._lose(entry, line, node, found) if is_lost else entry

    def is_waiting(self, entry: Entry, line: Queued) -> bool:
        """Say whether a job's question has been put, and has found no answer yet."""
        return _key(entry, line) in self._since_s

    def is_spent(self, entry: Entry) -> bool:
        """Say whether a job has lost more nodes than it may."""
        return isinstance(self._next_step(entry), GiveUp)

    def newest_node(self, entry: Entry) -> str:
        """Return the node that was lost last under a submission; empty if there is none."""
        losses = self._desk.ledger.losses(entry.run_dir, entry.name)
        return losses[-1].node if losses else ""

    def lacks_nodes(self, entry: Entry, reason: str) -> bool:
        """Say whether Slurm holds a job for good that some nodes are left out of for their losses.

        It is submitted again with them then (see ``failures``).

        Args:
            entry: The job.
            reason: Slurm's word for why it waits.
        """
        return (
            reason.startswith(NO_FITTING_NODES)
            and not entry.wish_cancel
            and isinstance(self._next_step(entry), Retry)
        )

    def left_out(self, entry: Entry, line: Queued) -> LeftOut:
        """Say which nodes a job that has lost some must not have.

        Args:
            entry: The job.
            line: Its line in the queue.

        Returns:
            The nodes; none where too few would be left, as Slurm would hold the job for good, or
            where it is not known how many would be.
        """
        step = self._next_step(entry)
        if not isinstance(step, Retry) or not step.exclude:
            return LeftOut()
        known = self._known_nodes()
        if known is None:
            why_not = f"the nodes of {line.partition} are not known"
            return LeftOut(step.exclude, why_not=why_not, is_final=False)
        resources = self._desk.ledger.resources(entry)
        there = frozenset().union(*(known.get(one, ()) for one in line.partition.split(",")))
        if len(there.difference(step.exclude)) < resources.nodes:
            return LeftOut(step.exclude, why_not=f"too few nodes would be left in {line.partition}")
        return LeftOut(step.exclude, ",".join(filter(None, (resources.exclude, *step.exclude))))

    def told(self, entry: Entry, line: Queued, left_out: LeftOut) -> Entry:
        """Write down what has become of the nodes that a job is not to get again.

        Args:
            entry: The job.
            line: Its line in the queue.
            left_out: The nodes.

        Returns:
            The job, with words that say so.
        """
        step = self._next_step(entry) if left_out.words else None
        if not isinstance(step, Retry):
            return entry
        newest = self._desk.ledger.losses(entry.run_dir, entry.name)[-1]
        if left_out.why_not and newest.restarts != line.restarts:
            return entry  # what was sent after the loss still holds
        words = f"{_lost(newest.node, step)}; {left_out.words}"
        if words != newest.words:
            self._desk.ledger.lose(entry, replace(newest, words=words))
        return replace(entry, message=words)

    def _next_step(self, entry: Entry) -> Retry | GiveUp | None:
        """Return what follows the newest loss of a submission; None if it has had none."""
        if not self._desk.ledger.losses(entry.run_dir, entry.name):
            return None
        return self._after(entry, self._desk.ledger.failures(entry))

    def _after(self, entry: Entry, history: Sequence[Ended]) -> Retry | GiveUp:
        launcher = self._desk.ledger.launcher(entry.study_dir)
        # One is always allowed: who wants none has Slurm queue nothing again (launcher.requeue).
        return next_step(history, max_retries=max(1, launcher.max_retries), requeue=True)

    def _lose(self, entry: Entry, line: Queued, node: str, found: Found) -> Entry:
        ledger = self._desk.ledger
        if any(loss.restarts == line.restarts for loss in ledger.losses(entry.run_dir, entry.name)):
            return entry  # a leader before us has written it down
        has_begun = _is_of_last(found, line)
        moved = has_begun and progressed(RunDirectory(Path(entry.run_dir)), found)
        ended = Ended(FailureClass.NODE_FAILURE, node, moved)
        step = self._after(entry, [*ledger.failures(entry), ended])
        words = _lost(node, step)
        ledger.lose(entry, Loss(line.restarts, node, moved, words))
        return replace(entry, message=words)

    def _known_nodes(self) -> dict[str, frozenset[str]] | None:
        """Return partition -> its nodes; None if Slurm cannot be asked now, or does not answer."""
        now_s = self._desk.clock.steady()
        if now_s - self._nodes_s < _NODES_S:
            return self._nodes
        if now_s - self._nodes_failed_s < _AGAIN_S or self._desk.calls.pay(Urgency.LOOK):
            return None
        try:
            self._nodes = self._desk.calls.slurm.nodes()
        except SlurmError:
            self._nodes_failed_s = self._desk.clock.steady()
            return None
        self._nodes_s = now_s
        return self._nodes

    def _settle(self, key: tuple[str, str, int]) -> None:
        self._settled.add(key)
        self._since_s.pop(key, None)


def _key(entry: Entry, line: Queued) -> tuple[str, str, int]:
    return entry.run_dir, entry.name, line.restarts


def _lost(node: str, step: Retry | GiveUp) -> str:
    """Tell a loss, and what follows, but for the nodes that are left out."""
    words = f"{node or 'a node'} was lost, and Slurm has queued the job again"
    if isinstance(step, GiveUp):
        return f"{words}; it is cancelled: {step.words}"
    return f"{words} ({step.count})"


def _is_of_last(found: Found, line: Queued) -> bool:
    """Whether what was found is of the life before the one that waits, or runs, now."""
    return found.started is not None and found.started.restarts == line.restarts - 1
