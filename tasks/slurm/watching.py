"""Watches the run directories of jobs: what the nodes leave there comes sooner than Slurm's word.

A directory costs one to three ``stat`` calls. Ten thousand of them at once would be felt by a
network file system, so they are looked at in turn, so many a second.
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

_ROUND_S = 0.4
"""No directory is looked at more often."""
_MOST_PER_S = 1000.0
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
        self._watched: dict[str, tuple[Entry, RunDirectory]] = {}
        self._turn: deque[str] = deque()
        self._seen: dict[str, tuple[int, Evidence]] = {}
        self._looked_s: float | None = None
        self._share = 0.0

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
        news = []
        times: dict[str, float] = {}
        for _ in range(self._num_next(now_s)):
            entry, directory = self._watched[self._turn[0]]
            self._turn.rotate(-1)
            found = self._read(entry, directory, times, fresh=False)
            if found.evidence is Evidence.UNREADABLE:
                break
            mark = (found.attempt, found.evidence)
            if mark != self._seen.get(entry.run_dir, (0, Evidence.NONE)):
                news.append(News(entry, found))
            self._seen[entry.run_dir] = mark
        return news

    def _num_next(self, now_s: float) -> int:
        """Return how many directories may be looked at now."""
        per_s = min(len(self._turn) / _ROUND_S, _MOST_PER_S)
        most = min(len(self._turn), _MOST_AT_ONCE)
        elapsed_s = _ROUND_S if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        self._share = min(self._share + per_s * elapsed_s, most)
        number = int(self._share)
        self._share -= number
        return number

    def found(self, entry: Entry, times: dict[str, float] | None = None) -> Found:
        """Return what is in the run directory of a job, now and for certain.

        Args:
            entry: The job.
            times: The file systems' times, if many are asked for at once; filled here.
        """
        directory = RunDirectory(Path(entry.run_dir))
        return self._read(entry, directory, {} if times is None else times, fresh=True)

    def _read(
        self, entry: Entry, directory: RunDirectory, times: dict[str, float], *, fresh: bool
    ) -> Found:
        if entry.study_dir not in times:
            times[entry.study_dir] = self._file_now(Path(entry.study_dir))
        return self._reader.read(
            directory, entry.submission, now_s=times[entry.study_dir], fresh=fresh
        )
