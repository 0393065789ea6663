"""Watches the run directories of jobs: what the nodes leave there comes sooner than Slurm's word.

A directory costs one to three ``stat`` calls. Ten thousand of them at once would be felt by a
network file system, so only some are looked at in each step, in turn.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import file_system_now
from tasks.slurm.entries import Entry
from tasks.slurm.evidence import EvidenceReader, Found
from tasks.slurm.states import Evidence

_MOST_AT_ONCE = 200


@dataclass(frozen=True)
class News:
    """Something new in a run directory.

    Attributes:
        entry: The job, as it was when the watch was set.
        found: What is there.
    """

    entry: Entry
    found: Found


class Watch:
    """Watches run directories in turn.

    Args:
        file_now: Tells the time by the clock of a directory's file system.
    """

    def __init__(self, file_now: Callable[[Path], float] = file_system_now) -> None:
        self._file_now = file_now
        self._reader = EvidenceReader()
        self._watched: dict[str, Entry] = {}
        self._turn: deque[str] = deque()
        self._seen: dict[str, tuple[int, Evidence]] = {}

    def set(self, entries: Iterable[Entry]) -> None:
        """Watch these jobs, and no others."""
        watched = {entry.run_dir: entry for entry in entries}
        for run_dir in self._watched.keys() - watched.keys():
            self._reader.forget(RunDirectory(Path(run_dir)))
            self._seen.pop(run_dir, None)
        if watched.keys() != self._watched.keys():
            self._turn = deque(watched)
        self._watched = watched

    def news(self) -> list[News]:
        """Look at the next directories in turn, and return what is new in them."""
        news = []
        times: dict[str, float] = {}
        for _ in range(min(_MOST_AT_ONCE, len(self._turn))):
            entry = self._watched[self._turn[0]]
            self._turn.rotate(-1)
            found = self._read(entry, times, fresh=False)
            if found.evidence is Evidence.UNREADABLE:
                break
            mark = (found.attempt, found.evidence)
            if mark != self._seen.get(entry.run_dir, (0, Evidence.NONE)):
                news.append(News(entry, found))
            self._seen[entry.run_dir] = mark
        return news

    def found(self, entry: Entry, times: dict[str, float] | None = None) -> Found:
        """Return what is in the run directory of a job, now and for certain.

        Args:
            entry: The job.
            times: The file systems' times, if many are asked for at once; filled here.
        """
        return self._read(entry, {} if times is None else times, fresh=True)

    def _read(self, entry: Entry, times: dict[str, float], *, fresh: bool) -> Found:
        if entry.study_dir not in times:
            times[entry.study_dir] = self._file_now(Path(entry.study_dir))
        directory = RunDirectory(Path(entry.run_dir))
        return self._reader.read(
            directory, entry.submission, now_s=times[entry.study_dir], fresh=fresh
        )
