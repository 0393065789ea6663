"""Fake nodes whose jobs leave the files of the wrapper, stamped with the time of the fake.

A run is claimed by the wrapper's own rule (``tasks.runtime.attempt``), so a job that is started
twice behaves here as it does on a cluster; whether anything was run twice is written down.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tasks.runtime.attempt import Claimant, Refused, claim
from tasks.runtime.records import Exit, Result, Status
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    EXIT,
    EXIT_ALREADY_RUNNING,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    HEARTBEAT,
    STARTED,
)
from tasks.slurm.script import RUNS_FILE
from tests.fakes.jobs import Incarnation, Work

_STATUS: dict[int, Status] = {EXIT_FINISHED: "finished", EXIT_INTERRUPTED: "interrupted"}


@dataclass
class _Life:
    """What an incarnation has claimed.

    Attributes:
        attempts: Run directory -> number of its attempt there.
        signals: What it was sent.
    """

    attempts: dict[Path, int] = field(default_factory=dict)
    signals: list[str] = field(default_factory=list)


class RunDirectoryNode:
    """Nodes on which jobs claim their run directories, beat, and say how they ended.

    Args:
        work: What an incarnation does; default: a minute, then success.
        beat_every_s: Time between two heartbeats; 0 for the one at the start only.

    Attributes:
        begun: Run directory -> how often a job's own code was started in it.
        finished: Run directory -> how often it came to a good end.
        overlaps: Run directory and ids of two jobs whose code ran in it at the same time. The two
            incarnations of one job, one of them cut off, are no such case.
        refused: Run directory and id of jobs that were refused by it.
    """

    def __init__(
        self, work: Callable[[Incarnation], Work] | None = None, *, beat_every_s: float = 10.0
    ) -> None:
        self.beat_every_s = beat_every_s
        self.begun: Counter[Path] = Counter()
        self.finished: Counter[Path] = Counter()
        self.overlaps: list[tuple[Path, str, str]] = []
        self.refused: list[tuple[Path, str]] = []
        self._work = work or (lambda _: Work())
        self._lives: dict[Incarnation, _Life] = {}
        self._newest: dict[Path, Incarnation] = {}

    def begin(self, run: Incarnation, now_s: float) -> Work:
        """Claim the run directories of a job, and start; one that is not ours has none."""
        run_dirs = _run_dirs(run)
        if not run_dirs:
            return self._work(run)
        life = _Life()
        code = EXIT_ALREADY_RUNNING
        for path in run_dirs:
            try:
                number = claim(RunDirectory(path), _claimant(run))
            except Refused as refusal:
                code = refusal.code
                self.refused.append((path, run.slurm_job))
                continue
            self._note_overlap(path, run)
            self.begun[path] += 1
            life.attempts[path] = number
            attempt = RunDirectory(path).attempt(number)
            _restamp(attempt / STARTED, run, now_s)
            _write(attempt / HEARTBEAT, "{}", now_s)
        if not life.attempts:
            return Work(duration_s=0.1, exit_code=code)
        self._lives[run] = life
        return self._work(run)

    def beat(self, now_s: float) -> None:
        """Let all that is alive beat."""
        for life in self._lives.values():
            for path, number in life.attempts.items():
                os.utime(RunDirectory(path).attempt(number) / HEARTBEAT, (now_s, now_s))

    def signal(self, run: Incarnation, name: str, now_s: float) -> None:  # noqa: ARG002
        """Note a signal."""
        if run in self._lives:
            self._lives[run].signals.append(name)

    def end(self, run: Incarnation, now_s: float) -> None:
        """Write how it ended; an incarnation that was overtaken writes no result."""
        life = self._lives.pop(run, _Life())
        has_moved = run.work is None or run.work.moves_on
        for path, number in life.attempts.items():
            directory = RunDirectory(path)
            is_overtaken = directory.attempt(number + 1).exists()
            code = EXIT_ALREADY_RUNNING if is_overtaken else run.exit_code
            if not is_overtaken:
                self.finished[path] += code == EXIT_FINISHED
                self._leave(directory, code, now_s, has_moved=has_moved)
            ended = Exit(
                code=code,
                timestamp_ms=round(now_s * 1000),
                signals=tuple(life.signals),
                requeued=run.requeues,
                checkpoint_moved=has_moved,
            )
            _write(directory.attempt(number) / EXIT, ended.model_dump_json(), now_s)

    def vanish(self, run: Incarnation, now_s: float) -> None:  # noqa: ARG002
        """End without a trace."""
        self._lives.pop(run, None)

    def _note_overlap(self, path: Path, run: Incarnation) -> None:
        before = self._newest.get(path)
        if before is not None and before in self._lives and before.slurm_job != run.slurm_job:
            self.overlaps.append((path, before.slurm_job, run.slurm_job))
        self._newest[path] = run

    @staticmethod
    def _leave(directory: RunDirectory, code: int, now_s: float, *, has_moved: bool) -> None:
        """Leave what the engine leaves."""
        if code == EXIT_INTERRUPTED and has_moved:
            directory.checkpoints.mkdir(exist_ok=True)
            _write(directory.checkpoints / f"{round(now_s):012d}.pt", "", now_s)
        if code < 128 or code == EXIT_INTERRUPTED:  # else a signal has left it no time
            result = Result(
                status=_STATUS.get(code, "failed"), reason="" if code in _STATUS else "data"
            )
            _write(directory.result, result.model_dump_json(), now_s)


def _run_dirs(run: Incarnation) -> list[Path]:
    """Return the run directories of a job, as its script has them."""
    batch_dir = run.request.script.parent
    listing = batch_dir / RUNS_FILE
    if not listing.exists():
        return [batch_dir] if batch_dir.exists() else []
    paths = _listed(listing, listing.stat().st_mtime_ns)
    return [Path(path) for path in (paths if run.task is None else [paths[run.task]])]


@lru_cache
def _listed(listing: Path, _written_ns: int) -> list[str]:
    return [str(path) for path in json.loads(listing.read_text())]


def _claimant(run: Incarnation) -> Claimant:
    number = run.request.name.rpartition("-")[2]
    return Claimant(int(number) if number.isdigit() else 1, run.slurm_job, run.restarts)


def _restamp(path: Path, run: Incarnation, now_s: float) -> None:
    """Let ``started.json`` tell the fake's time and place."""
    record = json.loads(path.read_text()) | {
        "timestamp_ms": round(now_s * 1000),
        "cluster": "fake",
        "partition": run.request.partition,
        "node": run.nodes[0],
        "host": run.nodes[0],
    }
    _write(path, json.dumps(record), now_s)


def _write(path: Path, text: str, now_s: float) -> None:
    path.write_text(text)
    os.utime(path, (now_s, now_s))
