"""What has come of the wish that a study stops."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.study import Study
from flows import stopping
from flows.stopping import stop
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED
from tasks.services.notes import leave, notes_directory, read_notes
from tasks.steps.creation import create_study_directory
from tasks.steps.flow_record import begin_flow_record
from tasks.steps.stopped import Stopped
from tasks.tracking.study_directory import StudyDirectory

_HOLD = """
import signal, sys, time
from pathlib import Path
from tasks.steps.study_lock import study_lock
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    with study_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    pass
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDirectory:
    """A study on this machine, of a user without jobs of Slurm."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    study = Study.model_validate({"name": "two", "experiment": {"data": "digits", "rounds": 3}})
    return create_study_directory(study, tmp_path / "runs", datetime.now(UTC))


@contextmanager
def _holder(path: Path, kind: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Hold a directory's lock as a process that runs its flow, or its job, does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), kind], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_of_a_study_that_nobody_runs_nothing_stops(directory: StudyDirectory) -> None:
    """And nothing is left."""
    assert stop(directory, None) == Stopped()


def test_what_was_handed_over_does_not_come_back(directory: StudyDirectory) -> None:
    """The next `up` would go on with the flow run, and submit the jobs again."""
    notes_dir = notes_directory(directory.path.parent)
    begin_flow_record(directory.path, "ours", "")
    leave(notes_dir, "ours")
    leave(notes_dir, "of-another-study")

    done = stop(directory, None)

    assert done == Stopped(was_handed_over=True)
    assert set(read_notes(notes_dir)) == {"of-another-study"}


def test_a_flow_on_this_machine_is_ended(directory: StudyDirectory) -> None:
    """As by Ctrl-C."""
    with _holder(directory.path) as process:
        done = stop(directory, None)
        code = process.wait(10.0)

    assert done == Stopped(has_ended_flow=True)
    assert code == 0


def test_a_flow_that_does_not_end_in_time_is_no_flow_that_was_not_running(
    directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is named."""
    monkeypatch.setattr(stopping, "PATIENCE_S", 0.5)

    with _holder(directory.path, "deaf") as process:
        done = stop(directory, None)

    assert not done.has_ended_flow
    assert done.goes_on == (
        f"its flow, process {process.pid}, was asked to stop, and has not within 0 s; see how it "
        f"stands with: watershed show {directory.path}"
    )


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"])
def test_jobs_that_a_killed_flow_has_left_are_ended_if_they_are_here(
    directory: StudyDirectory, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Else they are named; in no case was nothing running."""
    monkeypatch.setattr(stopping, "_STOPPED_WITHIN_S", 5.0 if host != "elsewhere" else 0.0)
    (run,) = directory.points()
    run.attempt(1).mkdir(parents=True)

    with _holder(run.path) as job:
        started = {"pid": job.pid, "host": host, "timestamp_ms": 1}
        (run.attempt(1) / STARTED).write_text(json.dumps(started))
        done = stop(directory, None)

    if host == "elsewhere":
        assert done.goes_on == (
            f"no flow runs it, but jobs that one has left go on: process {job.pid} on elsewhere; "
            f"run where they are: watershed cancel {directory.path}"
        )
    assert (done.num_orphans, done.is_nothing) == (host != "elsewhere", False)


def test_a_flow_on_another_host_is_left_to_that_host(directory: StudyDirectory) -> None:
    """Nobody waits for it, as nobody has asked it to stop; a process here is left alone."""
    with _holder(directory.path) as process:
        RunDirectory(directory.path).lock.write_text(f"elsewhere {process.pid}\n")
        began = time.monotonic()
        done = stop(directory, None)
        took_s = time.monotonic() - began
        was_alive = process.poll() is None

    assert not done.has_ended_flow
    assert done.goes_on == (
        f"it is running still, by process {process.pid} on elsewhere, which cannot be stopped from "
        "here; cancel its flow run in Prefect, or run on elsewhere: watershed cancel "
        f"{directory.path}"
    )
    assert was_alive
    assert took_s < 5.0
