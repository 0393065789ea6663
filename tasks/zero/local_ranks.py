"""Ranks as children of one process, which sees how each of them ends.

They are forked from a process that has loaded torch, and has started no thread and touched no GPU:
eight of them begin within a tenth of a second, where eight imports of torch on two cores take ten
seconds. A rank that is killed cannot say so, and whoever waited for it sees no more than a closed
connection; its parent knows which signal it was.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from tasks.runtime.errors import Reason
from tasks.runtime.fence import Overtaken
from tasks.runtime.job import EXIT_FAILED, explained
from tasks.runtime.records import Result
from tasks.runtime.stopping import Interrupted, StopRequest, stoppable
from tasks.zero.errors import last_words, lost_peer
from tasks.zero.identity import Identity
from tasks.zero.rendezvous import MEETING

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_LOOK_S = 0.2
_OTHERS_S = 2.0
"""How long ranks may go on after one that was lost, to say their own word."""
_AS_NCCL_ENDS = ", as NCCL ends a rank that has waited too long for another one"
_PR_SET_PDEATHSIG = 1

Work = Callable[[Identity], Result]


class EndKind(StrEnum):
    """How a rank has ended."""

    OVERTAKEN = "overtaken"
    """A newer attempt of the run has begun."""
    LOST = "lost"
    """It was killed, or went without a word."""
    FAILED = "failed"
    """Of its own error."""
    INTERRUPTED = "interrupted"
    """It was asked to stop."""
    SILENT = "silent"
    """It went on while the others gave up waiting, for it."""
    LOST_PEER = "lost peer"
    """It could not go on, as another rank had gone or was silent."""
    ABORTED = "aborted"
    """It aborted when NCCL may have ended it, as another rank was silent."""
    FINISHED = "finished"


_ORDER = {
    EndKind.OVERTAKEN: 0,
    EndKind.LOST: 1,
    EndKind.FAILED: 1,
    EndKind.INTERRUPTED: 2,
    EndKind.SILENT: 3,
    EndKind.ABORTED: 4,
    EndKind.LOST_PEER: 5,
    EndKind.FINISHED: 6,
}
"""What explains the end of the others comes before it."""
PATIENCE_S = {EndKind.LOST_PEER: 5.0, EndKind.ABORTED: 15.0}
"""How long a rank that has lost another one may be the only news, before those that still run are
taken for what it has waited for. After one that NCCL has ended it is longer: the time limits of the
others began with their own waits, up to a train step later."""


@dataclass(frozen=True)
class RankEnd:
    """How a rank has ended.

    Attributes:
        rank: Its number.
        kind: How.
        result: What it says itself, or what is said for it.
    """

    rank: int
    kind: EndKind
    result: Result


@dataclass
class _Rank:
    """A rank that runs.

    Attributes:
        identity: Which.
        process: Its process.
        end: Where it says how it has ended.
    """

    identity: Identity
    process: ForkProcess
    end: Connection


def run_ranks(
    identities: Sequence[Identity],
    work: Work,
    stop: StopRequest,
    *,
    aborts_after_s: float = float("inf"),
) -> RankEnd:
    """Run ranks to their end, all of them.

    When one is lost or fails, the others have a moment left, and are killed then. None outlives
    this call, nor this process.

    Args:
        identities: The ranks of this process.
        work: What each does; runs in a child.
        stop: Whether they are to stop; they are told by SIGTERM.
        aborts_after_s: The time limit of NCCL's watchdog, which ends ranks that have waited so long
            for another one by SIGABRT. Default: there is none.

    Returns:
        The end that explains the end of all; among like ends the first, of good ones the lowest
        rank's.

    Raises:
        OSError: A process cannot be made, or no temporary directory.
    """
    ranks: list[_Rank] = []
    # Here, as a rank that is killed removes nothing.
    with tempfile.TemporaryDirectory(prefix="watershed-", ignore_cleanup_errors=True) as meeting:
        try:
            with _held_back():
                ranks.extend(_start(identity, work, meeting) for identity in identities)
            ends = _supervise(ranks, stop, aborts_after_s)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.join()
    return _explaining(ends)


def _explaining(ends: Sequence[RankEnd]) -> RankEnd:
    """Choose the end that explains the end of all, from ends in the order in which they came."""
    chosen = min(ends, key=lambda end: _ORDER[end.kind])
    if chosen.kind in {EndKind.LOST, EndKind.ABORTED}:
        return chosen
    # An error that all have, rank 0 knows most of.
    same = [e for e in ends if (e.kind, e.result.reason) == (chosen.kind, chosen.result.reason)]
    return min(same, key=lambda end: end.rank)


def _supervise(ranks: Sequence[_Rank], stop: StopRequest, aborts_after_s: float) -> list[RankEnd]:
    running, ends = list(ranks), list[RankEnd]()
    aborts_from_s = time.monotonic() + aborts_after_s
    deadline_s = float("inf")
    was_told = False
    while running and time.monotonic() < deadline_s:
        if stop.is_made and not was_told:
            for rank in running:
                rank.process.terminate()
            was_told = True
        watched = [source for rank in running for source in (rank.end, rank.process.sentinel)]
        ready = wait(watched, timeout=_LOOK_S)
        for rank in [r for r in running if r.end in ready or r.process.sentinel in ready]:
            may_wait = time.monotonic() >= aborts_from_s
            end = _end_of(rank, was_stopped=stop.is_made, aborts_of_waiting=may_wait)
            running.remove(rank)
            ends.append(end)
            if end.kind in {EndKind.LOST, EndKind.FAILED, EndKind.OVERTAKEN}:
                deadline_s = min(deadline_s, time.monotonic() + _OTHERS_S)
            elif end.kind in PATIENCE_S:
                deadline_s = min(deadline_s, time.monotonic() + PATIENCE_S[end.kind])
    silent = [RankEnd(r.identity.rank, EndKind.SILENT, _silent(r, ends)) for r in running]
    aborted = [end for end in ends if end.kind is EndKind.ABORTED]
    if running and not have_waited(len(aborted), len(running)):
        # After the others: who has failed in words is the surer cause.
        ends += [replace(end, kind=EndKind.LOST) for end in aborted]
    return ends + silent


def have_waited(num_aborted: int, num_silent: int) -> bool:
    """Say whether ranks that have aborted were ended by NCCL, as they waited for silent ones.

    A rank that crashes by SIGABRT leaves the same signal. But then it is the others that wait; a
    rank that is silent has all others wait.

    Args:
        num_aborted: Ranks that have aborted.
        num_silent: Ranks that have given no sign since.
    """
    return num_aborted > num_silent


def _end_of(rank: _Rank, *, was_stopped: bool, aborts_of_waiting: bool) -> RankEnd:
    """Read how a rank has ended; what it has said goes before how its process went."""
    number = rank.identity.rank
    with contextlib.suppress(EOFError, OSError):
        if rank.end.poll():
            kind, result = rank.end.recv()
            return RankEnd(number, EndKind(kind), Result.model_validate(result))
    rank.process.join()
    code = rank.process.exitcode or 0
    if was_stopped and -code in _SIGNALS:
        return RankEnd(number, EndKind.INTERRUPTED, Result(status="interrupted"))
    how = f"ended with exit code {code} before it could say why"
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by {name}"
        how += ", perhaps for want of memory" if name == "SIGKILL" else ""
        if name == "SIGABRT" and aborts_of_waiting:
            return RankEnd(number, EndKind.ABORTED, lost(f"{_named(rank)} {how}"))
    return RankEnd(number, EndKind.LOST, lost(f"{_named(rank)} {how}"))


def _silent(rank: _Rank, ends: Sequence[RankEnd]) -> Result:
    """Say what is to be said of a rank that runs on while others have given up."""
    words = next((words_of(end) for end in ends if end.kind in PATIENCE_S), "")
    return lost(f"{_named(rank)} did not answer: it is stopped, or hangs ({words})")


def words_of(end: RankEnd) -> str:
    """Return what a rank's end says of it, once it is sure that it has waited for another one.

    Args:
        end: ``LOST_PEER`` or ``ABORTED``.
    """
    words = end.result.message.partition("; continue")[0]
    return words + (_AS_NCCL_ENDS if end.kind is EndKind.ABORTED else "")


def _named(rank: _Rank) -> str:
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return f"rank {rank.identity.rank} (process {rank.process.pid} on {node})"


def lost(words: str) -> Result:
    """Return the result of a training that has lost a rank.

    Args:
        words: Which, and how.
    """
    message = f"{words}; continue from the newest checkpoint with: watershed resume"
    return Result(status="failed", reason=Reason.RANK_LOST, message=message)


def _start(identity: Identity, work: Work, meeting: str) -> _Rank:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    name = f"rank {identity.rank}"
    arguments = (identity, work, theirs, os.getpid(), meeting)
    process = context.Process(target=_be, args=arguments, name=name)
    process.start()
    theirs.close()
    return _Rank(identity, process, ours)


def _be(identity: Identity, work: Work, end: Connection, parent: int, meeting: str) -> None:
    """Be a rank; the process ends here, whatever its threads still wait for."""
    _die_with(parent)
    os.environ[MEETING] = meeting
    try:
        with stoppable():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            kind, result = EndKind.FINISHED, work(identity)
        if result.status == "failed":
            kind = EndKind.FAILED
    except Interrupted:
        kind, result = EndKind.INTERRUPTED, Result(status="interrupted")
    except Overtaken as reason:
        kind, result = EndKind.OVERTAKEN, Result(status="interrupted", message=str(reason))
    except BaseException as error:  # noqa: BLE001  the entry point of a process
        # Also what torch's distributed checkpoint raises, which is no Exception.
        words = lost_peer(error)
        kind = EndKind.FAILED if words is None else EndKind.LOST_PEER
        result = _own_fault(error) if words is None else lost(f"rank {identity.rank}: {words}")
    end.send((kind.value, result.model_dump()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _own_fault(error: BaseException) -> Result:
    result, said = explained(error), last_words(error)
    if result.reason != Reason.INTERNAL or not said:
        return result
    return result.model_copy(update={"message": f"NCCL says: {said} (see stdout.log)"})


@contextmanager
def _held_back() -> Iterator[None]:
    """Keep signals waiting while children are made: they inherit handlers that are not theirs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where it can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)
