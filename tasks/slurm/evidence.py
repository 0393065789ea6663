"""What the node has left in a run directory: the attempts' files, read without asking Slurm.

Ages are told without comparing the clocks of two hosts: a heartbeat is as old as the time since it
was last seen to change; before a reader has seen a change, as its file is against a file that was
just touched on the same file system (``signs.file_system_now``).
"""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from configs.base import Record
from tasks.runtime.records import Exit, Result, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    EXIT,
    EXIT_ALREADY_RUNNING,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    HEARTBEAT,
    SILENT_AFTER_S,
    STARTED,
)
from tasks.slurm.states import Evidence

LIMIT_WARNING = "SIGUSR1"
"""What the job is sent before its time limit."""
FIRST_SIGNAL_CODE = 128
"""Exit codes from here on are of a process that died of signal (code - 128)."""
NOT_THERE = frozenset({126, 127})
"""What a shell, and the wrapper, end with when a command cannot be run, or is not on the node."""

_R = TypeVar("_R", bound=Record)


class _Mark(NamedTuple):
    """What tells one version of a file from the next."""

    time_s: float
    inode: int


@dataclass(frozen=True)
class Found:
    """What the newest attempt of a submission, or of a later one, has left.

    Attributes:
        evidence: What it comes to.
        attempt: Number of the attempt; 0 if there is none.
        started: Who claimed it; None if there is no attempt.
        exit: How it ended; None while it has not.
        result: What the engine says of its end; None without an exit, or if it left no result.
    """

    evidence: Evidence
    attempt: int = 0
    started: Started | None = None
    exit: Exit | None = None
    result: Result | None = None


NOTHING = Found(Evidence.NONE)


def progressed(directory: RunDirectory, found: Found) -> bool:
    """Say whether an attempt has saved a checkpoint, so that the next one goes on from there.

    Args:
        directory: The run directory.
        found: What the attempt has left.

    Returns:
        What its exit file says; without one, whether the newest checkpoint is newer than the
        attempt. False if there is no attempt, or its files cannot be read.
    """
    if found.started is None:
        return False
    if found.evidence in {Evidence.INTERRUPTED, Evidence.REQUEUED, Evidence.STUCK}:
        return found.exit is not None and found.exit.checkpoint_moved
    try:
        began_s = (directory.attempt(found.attempt) / STARTED).stat().st_mtime
        return any(time_s > began_s for time_s in checkpoint_times(directory))
    except OSError:
        return False


def checkpoint_times(directory: RunDirectory) -> list[float]:
    """Return when the checkpoints that are kept were written, Unix times in order.

    Args:
        directory: The run directory.

    Raises:
        OSError: They cannot be listed.
    """
    times = []
    try:
        paths = [path for path in directory.checkpoints.iterdir() if path.name[0] != "."]
    except FileNotFoundError:
        return []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # newer ones have taken its place
            times.append(path.stat().st_mtime)
    return sorted(times)


def read_whole(record: type[_R], path: Path) -> _R | None:
    """Read a record that a node has written.

    Args:
        record: Its type.
        path: The file.

    Returns:
        The record; None if it is not there, or torn.

    Raises:
        OSError: It cannot be read, for another reason than that it is absent.
    """
    try:
        return record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


@dataclass
class _Watched:
    """One run directory, as it was last seen.

    Attributes:
        attempt: Number of the newest attempt; 0 if there is none.
        next_path: Where the next attempt will be. Paths are texts, as pathlib's take ten times as
            long as the calls of ``stat`` themselves.
        exit_path: Where its exit will be.
        beat_path: Where its heartbeat is.
        started: Who claimed it; None until that can be read.
        exit_mark: Identity of the exit file that ``ended`` was read from.
        ended: What was found in it; None while there is none.
        beat_mark: Identity of the newest heartbeat.
        alive_s: When the attempt was last alive.
        seen_s: When it was last looked at.
    """

    attempt: int
    next_path: str
    exit_path: str
    beat_path: str
    started: Started | None = None
    exit_mark: _Mark | None = None
    ended: Found | None = None
    beat_mark: _Mark | None = None
    alive_s: float = 0.0
    seen_s: float = 0.0

    @classmethod
    def of(cls, directory: RunDirectory, attempt: int) -> "_Watched":
        """Begin to watch an attempt."""
        own = directory.attempt(attempt)
        following = directory.attempt(attempt + 1)
        return cls(attempt, str(following), str(own / EXIT), str(own / HEARTBEAT))


class EvidenceReader:
    """Reads run directories again and again: one to three calls of ``stat`` where nothing is new.

    Args:
        silent_after_s: How old a heartbeat may be.
    """

    def __init__(self, silent_after_s: float = SILENT_AFTER_S) -> None:
        self._silent_after_s = silent_after_s
        self._watched: dict[Path, _Watched] = {}

    def read(
        self, directory: RunDirectory, submission: int, *, now_s: float, fresh: bool = False
    ) -> Found:
        """Say what the newest attempt has left.

        A file that is torn is not there yet. A run that has finished has finished, whichever
        submission did it: the node starts it no more.

        Args:
            directory: The run directory.
            submission: Number of the submission; attempts of earlier ones count for nothing.
            now_s: Time by the file system's clock, see ``signs.file_system_now``; never runs back.
            fresh: List the directories first. A network file system may answer for half a minute
                from memory that a file is absent, but not after that. For the last look at a job.

        Returns:
            What was found; UNREADABLE if the file system does not answer.
        """
        try:
            found = self._newest(directory, now_s, fresh=fresh)
        except OSError:
            return Found(Evidence.UNREADABLE)
        is_older = found.started is not None and found.started.submission < submission
        return NOTHING if is_older and found.evidence is not Evidence.FINISHED else found

    def glance(self, directory: RunDirectory) -> bool:
        """Say whether there may be news since the last ``read``, by one or two calls of ``stat``.

        Args:
            directory: The run directory.

        Returns:
            Whether the newest attempt has ended, or an attempt has followed one that had. How old a
            heartbeat is, and whether an attempt has followed one that left no exit, ``read`` tells.
        """
        watched = self._watched.get(directory.path)
        if watched is None or (watched.attempt > 0 and watched.started is None):
            return True
        try:
            if watched.attempt > 0 and _mark(watched.exit_path) != watched.exit_mark:
                return True
            is_over = watched.attempt == 0 or watched.ended is not None
            return is_over and _mark(watched.next_path) is not None
        except OSError:
            return True

    def forget(self, directory: RunDirectory) -> None:
        """Drop what is remembered of a run directory."""
        self._watched.pop(directory.path, None)

    def _newest(self, directory: RunDirectory, now_s: float, *, fresh: bool) -> Found:
        watched = self._watched.get(directory.path)
        if watched is None or fresh:
            numbers = [int(path.name) for path in directory.attempts()]
            if watched is None or numbers[-1:] != [watched.attempt]:
                watched = _Watched.of(directory, max(numbers, default=0))
        while _mark(watched.next_path) is not None:
            watched = _Watched.of(directory, watched.attempt + 1)
        self._watched[directory.path] = watched
        if watched.attempt == 0:
            return NOTHING
        if fresh:
            list(directory.attempt(watched.attempt).iterdir())
        if watched.started is None:
            watched.started = read_whole(Started, directory.attempt(watched.attempt) / STARTED)
            if watched.started is None:
                return NOTHING
        return _ended(directory, watched) or self._unended(directory, watched, now_s)

    def _unended(self, directory: RunDirectory, watched: _Watched, now_s: float) -> Found:
        mark = _mark(watched.beat_path) or _mark(directory.attempt(watched.attempt) / STARTED)
        if mark is not None and mark != watched.beat_mark:
            # It has beaten since the last look; a time that lies outside is of a wrong clock.
            earliest_s = -math.inf if watched.beat_mark is None else watched.seen_s
            watched.alive_s = mark.time_s if earliest_s <= mark.time_s <= now_s else now_s
            watched.beat_mark = mark
        watched.seen_s = now_s
        age_s = now_s - watched.alive_s
        return Found(
            Evidence.SILENT if age_s > self._silent_after_s else Evidence.ALIVE,
            attempt=watched.attempt,
            started=watched.started,
        )


def _ended(directory: RunDirectory, watched: _Watched) -> Found | None:
    """Read how an attempt ended, again if that was written again; None while it has not."""
    mark = _mark(watched.exit_path)
    if mark is None or mark == watched.exit_mark:
        return watched.ended
    exit_ = read_whole(Exit, Path(watched.exit_path))
    if exit_ is None:
        return None
    watched.exit_mark = mark
    watched.ended = Found(
        _evidence_of(exit_),
        attempt=watched.attempt,
        started=watched.started,
        exit=exit_,
        result=_result_of(directory, watched.attempt),
    )
    return watched.ended


def _evidence_of(exit_: Exit) -> Evidence:
    if exit_.code == EXIT_FINISHED:
        return Evidence.FINISHED
    if exit_.requeued:
        return Evidence.REQUEUED
    # Overtaken by a newer attempt, which will be seen at the next look: resumable all the same.
    if exit_.code in {EXIT_INTERRUPTED, EXIT_ALREADY_RUNNING}:
        is_stuck = LIMIT_WARNING in exit_.signals and not exit_.checkpoint_moved
        return Evidence.STUCK if is_stuck else Evidence.INTERRUPTED
    was_killed = exit_.code < 0 or exit_.code >= FIRST_SIGNAL_CODE
    return Evidence.KILLED if was_killed else Evidence.FAILED


def _result_of(directory: RunDirectory, attempt: int) -> Result | None:
    """Read the result, unless it is one that an earlier attempt has left."""
    written, claimed = _mark(directory.result), _mark(directory.attempt(attempt) / STARTED)
    if written is None or claimed is None or written.time_s < claimed.time_s:
        return None
    return read_whole(Result, directory.result)


def _mark(path: str | Path) -> _Mark | None:
    try:
        status = os.stat(path)  # noqa: PTH116  see _Watched
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Mark(status.st_mtime, status.st_ino)
