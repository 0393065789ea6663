"""Signs of life: who is at work on a run, told without comparing the clocks of two machines."""

import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, claim, write_exit
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    SILENT_AFTER_S,
    beat,
    file_system_now,
    is_beating,
    is_locked,
    read_record,
)


def claimed(path: Path, submission: int = 1) -> tuple[RunDirectory, Path]:
    """A run with one attempt that has not ended."""
    directory = RunDirectory(path)
    return directory, directory.attempt(claim(directory, Claimant(submission, "7")))


def age(path: Path, seconds: float) -> None:
    """Make a file older."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def test_a_heartbeat_tells_time_and_process(tmp_path: Path) -> None:
    """Watchers find the child's number, and nothing half-written."""
    _, attempt = claimed(tmp_path)

    beat(attempt, 12)

    record = json.loads((attempt / "heartbeat.json").read_text())
    assert record["child_pid"] == 12
    assert abs(record["timestamp_ms"] / 1000 - time.time()) < 60
    assert not list(attempt.glob(".heartbeat*"))


@pytest.mark.parametrize("name", ["started.json", "heartbeat.json"])
def test_a_fresh_start_or_heartbeat_is_life(tmp_path: Path, name: str) -> None:
    """An attempt is alive from its claim on, and as long as its heart beats."""
    directory, attempt = claimed(tmp_path)
    beat(attempt, 1)
    for path in (attempt / "started.json", attempt / "heartbeat.json"):
        age(path, SILENT_AFTER_S + 5)
    silent = is_beating(directory)

    (attempt / name).touch()

    assert (silent, is_beating(directory)) == (False, True)


def test_an_end_is_the_end(tmp_path: Path) -> None:
    """With an exit the attempt is over, however fresh its heartbeat."""
    directory, attempt = claimed(tmp_path)
    beat(attempt, 1)

    write_exit(attempt, 143)

    assert not is_beating(directory)


def test_what_is_no_job_of_slurm_has_no_heartbeat(tmp_path: Path) -> None:
    """Without attempts, and for a process on its own, the lock is what counts."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "local").mkdir()
    local, _ = claimed(tmp_path / "local", submission=0)

    assert not is_beating(RunDirectory(tmp_path / "empty"))
    assert not is_beating(local)


def test_only_the_newest_attempt_counts(tmp_path: Path) -> None:
    """An old incarnation that still beats does not hide that the newest has ended."""
    directory, first = claimed(tmp_path)
    second = directory.attempt(claim(directory, Claimant(1, "7", restarts=1)))
    write_exit(second, 0)

    beat(first, 1)

    assert not is_beating(directory)


def test_where_nothing_can_be_written_the_time_of_the_file_is_renewed(tmp_path: Path) -> None:
    """A heartbeat that cannot be written is no error, and still a sign of life."""
    directory, attempt = claimed(tmp_path)
    heartbeat = attempt / "heartbeat.json"
    heartbeat.mkdir()  # no file can be put in its place
    for path in (attempt / "started.json", heartbeat):
        age(path, SILENT_AFTER_S + 5)

    beat(attempt, 1)

    assert is_beating(directory)


def test_a_heartbeat_without_its_directory_is_no_error(tmp_path: Path) -> None:
    """Somebody may have removed the run; its job ends in its own way."""
    beat(tmp_path / "absent", 1)

    assert not (tmp_path / "absent").exists()


def test_the_time_of_the_file_system_leaves_no_file(tmp_path: Path) -> None:
    """The probe is gone afterwards; where there can be none, this machine's time has to do."""
    now = file_system_now(tmp_path)
    fallback = file_system_now(tmp_path / "absent")

    assert list(tmp_path.iterdir()) == []
    # Both are this machine's clock here; a loaded machine may take seconds between the two.
    assert abs(fallback - now) < 30


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    """The lock goes with its owner."""
    directory = RunDirectory(tmp_path)
    never = is_locked(directory)

    with directory.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = is_locked(directory)
    released = is_locked(directory)

    assert (never, held, released) == (False, True, False)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\x00\x00"])
def test_a_torn_record_has_no_fields(tmp_path: Path, content: bytes) -> None:
    """What a crash has left of a record says nothing, and stops nobody."""
    (tmp_path / "started.json").write_bytes(content)

    assert read_record(tmp_path / "started.json") == {}
    assert read_record(tmp_path / "absent.json") == {}
