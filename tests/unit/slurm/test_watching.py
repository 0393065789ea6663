"""How much a watch asks of a file system, and how soon it sees what is new."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.states import Evidence
from tasks.slurm.watching import Watch

STEP_S = 0.2
Calls = Callable[[], int]


@pytest.fixture
def num_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Count the calls of stat."""
    count, stat = 0, os.stat

    def counted(*args: Any, **kwargs: Any) -> os.stat_result:
        nonlocal count
        count += 1
        return stat(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", counted)
        yield lambda: count


def _run(root: Path, number: int, *, is_live: bool = True) -> Entry:
    run_dir = root / str(number)
    attempt = run_dir / "attempts" / "1"
    run_dir.mkdir()
    if is_live:
        attempt.mkdir(parents=True)
        started = {"pid": 1, "host": "n", "timestamp_ms": 1, "submission": 1, "slurm_job": "7"}
        (attempt / "started.json").write_text(json.dumps(started))
        (attempt / "heartbeat.json").write_text("{}")
    state = LedgerState.RUNNING if is_live else LedgerState.SUBMITTED
    return Entry(
        run_dir=str(run_dir),
        study_dir=str(root),
        state=state,
        submission=1,
        first_submission=1,
        name="ws-a-1",
        mode="single",
        task=None,
        slurm_job="7",
        slurm_state="RUNNING",
        reason="",
        restarts=0,
        nodes="n",
        failure="",
        message="",
        exclude="",
        wish_cancel=False,
        needs_costs=True,
        not_before_s=0.0,
        submitting_s=0.0,
        changed_s=0.0,
    )


def _end(entry: Entry) -> None:
    path = Path(entry.run_dir) / "attempts" / "1" / "exit.json"
    path.write_text(json.dumps({"code": 0, "timestamp_ms": 2}))


class _Watching:
    """A watch on a clock of its own."""

    def __init__(self, entries: list[Entry]) -> None:
        self.now_s = 1000.0
        self.watch = Watch(lambda _: 2e9 + self.now_s)
        self.watch.set(entries)

    def until(self, run_dir: str, limit_s: float = 200.0) -> float:
        """Return how long it takes until there is news of a run."""
        begun_s = self.now_s
        while not any(one.entry.run_dir == run_dir for one in self.watch.news(self.now_s)):
            self.now_s += STEP_S
            assert self.now_s - begun_s < limit_s
        return self.now_s - begun_s

    def idle(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.watch.news(self.now_s)
            self.now_s += STEP_S


@pytest.mark.parametrize("num_jobs", [1, 20, 100, 2000])
def test_an_idle_watch_asks_no_more_than_a_hundred_times_a_second(
    tmp_path: Path, num_calls: Calls, num_jobs: int
) -> None:
    """Whatever the number of jobs; of a few jobs, it asks less."""
    watching = _Watching([_run(tmp_path, number) for number in range(num_jobs)])
    watching.idle(60.0)
    before = num_calls()

    watching.idle(30.0)

    per_s = (num_calls() - before) / 30.0
    assert per_s <= min(100.0, num_jobs * 3.0)


@pytest.mark.parametrize(("num_jobs", "within_s"), [(1, 0.6), (20, 0.6), (100, 1.6)])
def test_an_end_is_seen_soon(tmp_path: Path, num_jobs: int, within_s: float) -> None:
    """At once of a few jobs, and within a second or so of a hundred."""
    entries = [_run(tmp_path, number) for number in range(num_jobs)]
    watching = _Watching(entries)
    watching.idle(70.0)

    delays_s = []
    for entry in entries[::7]:
        _end(entry)
        delays_s.append(watching.until(entry.run_dir))

    assert max(delays_s) <= within_s


def test_a_start_is_seen_soon(tmp_path: Path) -> None:
    """Of a job that waits, too."""
    entry = _run(tmp_path, 0, is_live=False)
    watching = _Watching([entry])
    watching.idle(10.0)

    attempt = Path(entry.run_dir) / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "started.json").write_text(
        json.dumps({"pid": 1, "host": "n", "timestamp_ms": 1, "submission": 1, "slurm_job": "7"})
    )

    assert watching.until(entry.run_dir) <= 0.6


def test_an_attempt_that_follows_a_silent_one_is_seen_within_a_minute(tmp_path: Path) -> None:
    """Slurm's regular listing tells of it sooner."""
    entry = _run(tmp_path, 0)
    watching = _Watching([entry])
    watching.idle(10.0)

    (Path(entry.run_dir) / "attempts" / "2").mkdir()
    (Path(entry.run_dir) / "attempts" / "2" / "started.json").write_text(
        json.dumps({"pid": 1, "host": "m", "timestamp_ms": 1, "submission": 1, "slurm_job": "7"})
    )

    assert watching.until(entry.run_dir) <= 60.4


def test_what_another_look_has_seen_is_news_all_the_same(tmp_path: Path) -> None:
    """The leader may look at a directory for another reason, and must still be told."""
    entry = _run(tmp_path, 0)
    watching = _Watching([entry])
    watching.idle(10.0)

    _end(entry)
    found = watching.watch.found(entry)

    assert found.evidence is Evidence.FINISHED
    assert watching.until(entry.run_dir) <= 0.6
