"""The life of an attempt: what every end leaves behind."""

import errno
import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from tasks.runtime.attempt import Claimant, claim, write_exit
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.job import EXIT_ALREADY_RUNNING, run_job
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory


def _finish(_: RunDirectory) -> Result:
    return Result(status="finished", steps=3)


def test_a_finished_job_leaves_result_and_attempt(tmp_path: Path) -> None:
    """Result, start and exit are files; the exit code is 0."""
    code = run_job(tmp_path / "job.json", _finish)

    directory = RunDirectory(tmp_path)
    result = directory.read_result()
    assert code == 0
    assert result is not None
    assert (result.status, result.steps) == ("finished", 3)
    assert json.loads((directory.attempt(1) / "exit.json").read_text())["code"] == 0
    assert (directory.attempt(1) / "started.json").exists()


def test_a_failed_job_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reason that the user can act on reaches the result, without a traceback."""

    def fail(_: RunDirectory) -> Result:
        raise JobError(Reason.DATA, "no such directory: x; put y there")

    code = run_job(tmp_path / "job.json", fail)

    result = RunDirectory(tmp_path).read_result()
    assert code == 1
    assert result is not None
    assert (result.status, result.reason) == ("failed", "data")
    assert "put y there" in result.message
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_is_a_reason_of_its_own(tmp_path: Path) -> None:
    """An error about storage is told from one in the program."""

    def fill(directory: RunDirectory) -> Result:
        raise OSError(errno.ENOSPC, "No space left on device", str(directory.journal))

    run_job(tmp_path / "job.json", fill)

    result = RunDirectory(tmp_path).read_result()
    assert result is not None
    assert result.reason == "storage"
    assert "no space left" in result.message
    assert "metrics.jsonl" in result.message


def test_an_internal_error_keeps_its_traceback_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours is reported as such, with the traceback where developers look."""

    def break_down(_: RunDirectory) -> Result:
        raise ZeroDivisionError("by us")

    code = run_job(tmp_path / "job.json", break_down)

    result = RunDirectory(tmp_path).read_result()
    assert code == 1
    assert result is not None
    assert result.reason == "internal"
    assert "ZeroDivisionError: by us" in result.message
    assert "Traceback" in capsys.readouterr().err


def test_a_second_attempt_does_not_run_beside_the_first(tmp_path: Path) -> None:
    """While one attempt holds the lock, another ends at once and touches nothing."""
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        code = run_job(tmp_path / "job.json", _finish)

    assert code == EXIT_ALREADY_RUNNING
    assert RunDirectory(tmp_path).read_result() is None
    assert RunDirectory(tmp_path).attempts() == []


def test_wall_time_adds_up_over_attempts(tmp_path: Path) -> None:
    """The result counts the time of the attempts before it."""
    run_job(tmp_path / "job.json", _finish)
    directory = RunDirectory(tmp_path)
    first = directory.read_result()
    assert first is not None
    directory.result.write_text(first.model_copy(update={"wall_s": 100.0}).model_dump_json())

    run_job(tmp_path / "job.json", _finish)

    second = directory.read_result()
    assert second is not None
    assert 100.0 <= second.wall_s < 110.0


def test_a_signal_during_the_work_ends_it_as_interrupted(tmp_path: Path) -> None:
    """SIGTERM leaves a result that says so, and the exit code of a terminated process."""

    def stop(_: RunDirectory) -> Result:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("never reached")

    code = run_job(tmp_path / "job.json", stop)

    result = RunDirectory(tmp_path).read_result()
    assert code == 143
    assert result is not None
    assert result.status == "interrupted"


def _claim(path: Path, restarts: int = 0) -> int:
    return claim(RunDirectory(path), Claimant(1, "7", restarts))


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run whose attempt the wrapper has claimed for this process."""
    for name, value in Fence(tmp_path, _claim(tmp_path)).environment().items():
        monkeypatch.setenv(name, value)
    return RunDirectory(tmp_path)


def test_a_child_of_the_wrapper_leaves_start_and_exit_to_it(wrapped: RunDirectory) -> None:
    """It writes its result, and makes no attempt of its own."""
    code = run_job(wrapped.job, _finish)

    result = wrapped.read_result()
    assert code == 0
    assert result is not None
    assert result.status == "finished"
    assert [attempt.name for attempt in wrapped.attempts()] == ["1"]
    assert not (wrapped.attempt(1) / "exit.json").exists()


@pytest.mark.parametrize("when", ["before", "in the middle", "with an error"])
def test_an_overtaken_job_leaves_no_result(wrapped: RunDirectory, when: str) -> None:
    """Whenever a newer attempt begins, the older one ends with 75 and writes nothing."""
    if when == "before":
        _claim(wrapped.path, restarts=1)

    def work(_: RunDirectory) -> Result:
        if when != "before":
            _claim(wrapped.path, restarts=1)
        if when == "with an error":
            raise JobError(Reason.DATA, "something that the newer attempt may not have")
        return Result(status="finished")

    code = run_job(wrapped.job, work)

    assert code == EXIT_ALREADY_RUNNING
    assert wrapped.read_result() is None


def test_a_job_of_slurm_that_is_alive_is_not_disturbed(tmp_path: Path) -> None:
    """Started by hand beside it, a process ends at once; once the job is over, it goes on."""
    attempt = RunDirectory(tmp_path).attempt(_claim(tmp_path))
    beside = run_job(tmp_path / "job.json", _finish)

    write_exit(attempt, 143)
    after = run_job(tmp_path / "job.json", _finish)

    assert (beside, after) == (EXIT_ALREADY_RUNNING, 0)
    assert (tmp_path / "attempts" / "2" / "exit.json").exists()
