"""Two incarnations of one job: the old one sleeps behind a partition, and wakes up too late."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import read_record
from tests.integration.test_interruption import EXPERIMENTS, prepare, run_forked, what_counts
from tests.integration.wrapped import finish, is_running, read_exit, run, start, until

SIMULATE = [sys.executable, "-m", "tasks.federated.simulate_job"]
LONG: dict[str, object] = {"rounds": 150}


def files(directory: RunDirectory) -> dict[str, bytes]:
    """All that a run has left but the old incarnation's own files, and what both say."""
    return {
        str(path.relative_to(directory.path)): path.read_bytes()
        for path in sorted(directory.path.rglob("*"))
        if path.is_file() and path != directory.stdout and directory.attempt(1) not in path.parents
    }


def replaced(path: Path, before: int) -> int:
    """Wait until another file has a name; return its number. Each incarnation has its journal."""

    def number() -> int:
        return path.stat().st_ino if path.exists() else 0

    until(lambda: number() != before, 60)
    return number()


@pytest.mark.parametrize(
    "name",
    ["memory, delays", pytest.param("event-driven, scaffold", marks=pytest.mark.slow)],
)
def test_an_old_incarnation_that_wakes_up_changes_nothing(tmp_path: Path, name: str) -> None:
    """No file of the run changes once the newer incarnation has begun; its bits are undisturbed."""
    undisturbed = prepare(tmp_path / "undisturbed", EXPERIMENTS[name] | LONG)
    assert run_forked(undisturbed, None)
    directory = prepare(tmp_path / "run", EXPERIMENTS[name] | LONG)
    old = start(directory, SIMULATE)
    until(lambda: list(directory.checkpoints.glob("round-*")), 60)
    child = int(read_record(directory.attempt(1) / "heartbeat.json")["child_pid"])
    for process in (old.pid, child):
        os.kill(process, signal.SIGSTOP)

    assert run(directory, SIMULATE, restarts=1) == 0
    before = files(directory)
    os.kill(child, signal.SIGCONT)
    until(lambda: not is_running(child))  # by itself: its wrapper still sleeps
    os.kill(old.pid, signal.SIGCONT)
    code, _ = finish(old)

    assert files(directory) == before
    assert what_counts(directory) == what_counts(undisturbed)
    assert (code, read_exit(directory, 1).code, read_exit(directory, 2).code) == (75, 75, 0)


@pytest.mark.slow
def test_old_incarnations_beside_the_new_one_change_nothing(tmp_path: Path) -> None:
    """Each is overtaken while it computes, and awake; the last one ends with undisturbed bits."""
    experiment = EXPERIMENTS["event-driven, scaffold"] | {"rounds": 300}
    undisturbed = prepare(tmp_path / "undisturbed", experiment)
    assert run_forked(undisturbed, None)
    directory = prepare(tmp_path / "run", experiment)
    wrappers, journal = [], 0

    for restarts in range(3):
        wrappers.append(start(directory, SIMULATE, restarts=restarts))
        journal = replaced(directory.journal, journal)  # its rounds begin
    codes = [finish(wrapper)[0] for wrapper in wrappers]

    assert codes == [75, 75, 0]
    assert what_counts(directory) == what_counts(undisturbed)
