"""Watches the run directories of jobs: what the nodes leave there comes sooner than Slurm's word.

The metadata server of a network file system feels every ``stat``, and serves everybody. So there is
a budget of calls a second, whatever the number of jobs: a glance costs one, whether a job has begun
or ended; the rest is read once a minute. Where there are so many jobs that a round of glances takes
longer than Slurm's regular listing, that is what tells of their ends.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import file_system_now
from tasks.slurm.entries import Entry
from tasks.slurm.evidence import EvidenceReader, Found
from tasks.slurm.states import Evidence

_ROUND_S = 0.4
"""No directory is looked at more often."""
_MOST_CALLS_PER_S = 100.0
_READ_EVERY_S = 60.0
_CALLS_OF_READ = 4
_CALLS_OF_TIME = 4
"""To ask a file system for its time, a file is made, looked at, and removed."""


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
        self._watched: dict[str, tuple[Entry, RunDirectory]] = {}
        self._turn: deque[str] = deque()
        self._seen: dict[str, tuple[int, Evidence]] = {}
        self._read_s: dict[str, float] = {}
        self._looked_s = -math.inf
        self._share = self._calls = 0.0

    def set(self, entries: Iterable[Entry]) -> None:
        """Watch these jobs, and no others."""
        before, self._watched = self._watched, {}
        for entry in entries:
            known = before.get(entry.run_dir)
            directory = known[1] if known else RunDirectory(Path(entry.run_dir))
            self._watched[entry.run_dir] = (entry, directory)
        for run_dir in before.keys() - self._watched.keys():
            self._reader.forget(before[run_dir][1])
            self._seen.pop(run_dir, None)
            self._read_s.pop(run_dir, None)
        staying = [run_dir for run_dir in self._turn if run_dir in self._watched]
        joining = [run_dir for run_dir in self._watched if run_dir not in before]
        self._turn = deque(staying + joining)

    def news(self, now_s: float) -> list[News]:
        """Look at the next directories in turn.

        Args:
            now_s: The time, by the steady clock.

        Returns:
            What is new in them.
        """
        news: list[News] = []
        times: dict[str, float] = {}
        self._refill(now_s)
        while self._share >= 1 and self._calls >= 1:
            self._share -= 1
            entry, directory = self._watched[self._turn[0]]
            self._turn.rotate(-1)
            self._calls -= 1
            is_due = now_s - self._read_s.get(entry.run_dir, -math.inf) >= _READ_EVERY_S
            if not is_due and not self._reader.glance(directory):
                continue
            self._calls -= _CALLS_OF_READ + _CALLS_OF_TIME * (entry.study_dir not in times)
            found = self._read(entry, directory, times, fresh=False)
            if found.evidence is Evidence.UNREADABLE:
                break
            self._read_s[entry.run_dir] = now_s
            mark = (found.attempt, found.evidence)
            if mark != self._seen.get(entry.run_dir, (0, Evidence.NONE)):
                news.append(News(entry, found))
            self._seen[entry.run_dir] = mark
        return news

    def _refill(self, now_s: float) -> None:
        """Allow as many looks and calls as the time since the last ones gives."""
        elapsed_s = now_s - self._looked_s
        self._looked_s = now_s
        most = len(self._turn)
        self._share = min(self._share + most * min(elapsed_s / _ROUND_S, 1.0), most)
        self._calls = min(self._calls + elapsed_s * _MOST_CALLS_PER_S, _MOST_CALLS_PER_S)

    def found(self, entry: Entry, times: dict[str, float] | None = None) -> Found:
        """Return what is in the run directory of a job, now and for certain.

        Args:
            entry: The job.
            times: The file systems' times, if many are asked for at once; filled here.
        """
        directory = RunDirectory(Path(entry.run_dir))
        self._read_s.pop(entry.run_dir, None)  # what is new to this look is told as news, too
        return self._read(entry, directory, {} if times is None else times, fresh=True)

    def _read(
        self, entry: Entry, directory: RunDirectory, times: dict[str, float], *, fresh: bool
    ) -> Found:
        if entry.study_dir not in times:
            times[entry.study_dir] = self._file_now(Path(entry.study_dir))
        return self._reader.read(
            directory, entry.submission, now_s=times[entry.study_dir], fresh=fresh
        )
