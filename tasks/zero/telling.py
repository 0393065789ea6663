"""Which process of a job says how it ended, when srun has started one for each rank.

They have no connection of their own, but the directory of the attempt. Rank 0 tells of good ends
and of requests to stop. Of a rank that is lost or has failed its own parent tells, at once: with
its exit code srun ends all others. A rank that has only lost another one leaves a mark, and waits
to be ended. If nobody tells, as the node of the lost rank went with it, or as that rank is alive
and silent, then the lowest rank of those that have left a mark tells who has not; or who has been
killed by SIGABRT, unless those are so many that they have waited for the others.
"""

import contextlib
import time
from collections.abc import Set
from pathlib import Path

from tasks.runtime.fence import Overtaken
from tasks.runtime.job import EXIT_FAILED, EXIT_FINISHED, EXIT_INTERRUPTED, ToldByAnother
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED
from tasks.runtime.stopping import Interrupted, StopRequest
from tasks.zero.identity import Identity
from tasks.zero.local_ranks import PATIENCE_S, EndKind, RankEnd, have_waited, lost, words_of

_POLL_S = 0.1
_SAME_ERROR_S = 1.0
"""How long a failed rank lets rank 0 tell first, which knows more of an error that all have."""
_LEADER_S = 5.0
_ENDED_S = 0.5
"""Enough for the marks of others; srun sends SIGKILL after Slurm's KillWait, half a minute."""
_MARKS = {EndKind.LOST_PEER: "lost-peer-", EndKind.ABORTED: "aborted-"}
_MOST_NAMED = 8


class Telling:
    """What the process of one rank has to say at the end.

    Args:
        directory: The run directory.
        attempt: Directory of the attempt.
        identity: Of the rank.
    """

    def __init__(self, directory: RunDirectory, attempt: Path, identity: Identity) -> None:
        self._directory, self._attempt, self._identity = directory, attempt, identity

    def settle(self, end: RankEnd, stop: StopRequest) -> Result:
        """Return what is to be told of an end, if this process is to tell it.

        Args:
            end: Of its rank.
            stop: Whether the process was asked to stop.

        Returns:
            The result.

        Raises:
            Interrupted: Rank 0 was asked to stop.
            Overtaken: A newer attempt has begun.
            ToldByAnother: Another process tells.
            OSError: The attempt's directory cannot be written or read.
        """
        is_leader = self._identity.rank == 0
        match end.kind:
            case EndKind.FINISHED if not is_leader:
                raise ToldByAnother(EXIT_FINISHED)
            case EndKind.INTERRUPTED if not is_leader:
                self._wait_until_told(_LEADER_S)  # our exit code ends the others
                raise ToldByAnother(EXIT_INTERRUPTED)
            case EndKind.FAILED if not is_leader and self._wait_until_told(_SAME_ERROR_S):
                raise ToldByAnother(EXIT_FAILED)
            case EndKind.LOST_PEER | EndKind.ABORTED:
                return self._tell_who_is_missing(end, stop)
        return conclusion(end)

    def _tell_who_is_missing(self, end: RankEnd, stop: StopRequest) -> Result:
        """Wait for who tells; else say which ranks have left no mark, or which have aborted.

        Raises:
            ToldByAnother: Another process tells.
            OSError: The attempt's directory cannot be written or read.
        """
        (self._attempt / f"{_MARKS[end.kind]}{end.rank}").touch()
        if self._wait_until_told(PATIENCE_S[end.kind], stop):
            raise ToldByAnother(EXIT_FAILED)
        aborted = self._marked(EndKind.ABORTED)
        marked = aborted | self._marked(EndKind.LOST_PEER)
        if end.rank != min(marked) and self._wait_until_told(_LEADER_S):
            raise ToldByAnother(EXIT_FAILED)
        missing = set(range(self._identity.num_ranks)) - marked
        if aborted and not (missing and have_waited(len(aborted), len(missing))):
            if aborted == {end.rank}:
                return end.result
            said = end.result.message.partition("; continue")[0]
            return lost(f"ranks that were killed by SIGABRT: {_named(aborted)} ({said})")
        return lost(f"ranks that did not answer: {_named(missing)} ({words_of(end)})")

    def _marked(self, kind: EndKind) -> set[int]:
        prefix = _MARKS[kind]
        return {int(path.name.removeprefix(prefix)) for path in self._attempt.glob(f"{prefix}*")}

    def _wait_until_told(self, limit_s: float, stop: StopRequest | None = None) -> bool:
        """Wait for a result of this attempt; say whether there is one."""
        deadline_s = time.monotonic() + limit_s
        while not (is_told := self._is_told()) and time.monotonic() < deadline_s:
            if stop is not None and stop.is_made:  # srun ends us: there is little time left
                deadline_s = min(deadline_s, time.monotonic() + _ENDED_S)
                stop = None
            time.sleep(_POLL_S)
        return is_told

    def _is_told(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            told_s = self._directory.result.stat().st_mtime
            return told_s >= (self._attempt / STARTED).stat().st_mtime
        return False


def _named(ranks: Set[int]) -> str:
    named = ", ".join(map(str, sorted(ranks)[:_MOST_NAMED])) or "none"
    return f"{named} and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else named


def conclusion(end: RankEnd) -> Result:
    """Return the result of the end that explains all.

    Args:
        end: That end.

    Returns:
        The result.

    Raises:
        Interrupted: It was a request to stop.
        Overtaken: A newer attempt has begun.
    """
    if end.kind is EndKind.INTERRUPTED:
        raise Interrupted
    if end.kind is EndKind.OVERTAKEN:
        raise Overtaken(end.result.message)
    return end.result
