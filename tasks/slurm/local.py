"""The launcher for one machine: every job a subprocess, some at a time."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.runtime.atomic_files import write_json
from tasks.runtime.errors import DamagedFileError, Reason
from tasks.runtime.job import (
    EXIT_ALREADY_RUNNING,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
)
from tasks.runtime.reading import load_record
from tasks.runtime.records import Exit, Result, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, JobState, id_of
from tasks.slurm.liveness import is_alive
from tasks.slurm.plan import JobPlan
from tasks.slurm.results import STOPPED, write_result

_POLL_S = 0.1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_STATES = {
    EXIT_FINISHED: JobState.FINISHED,
    EXIT_INTERRUPTED: JobState.INTERRUPTED,
}


def num_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Job:
    """A job and what is known of it.

    Attributes:
        plan: What to run.
        state: Where it is.
        process: Our subprocess; None while it waits, and for a job that was adopted.
        num_attempts: Attempts in its run directory before this one.
        stop_by: When to kill it, on the monotonic clock; None unless it was asked to stop.
        who: The process, for people; empty before there is one.
    """

    plan: JobPlan
    state: JobState = JobState.WAITING
    process: subprocess.Popen[bytes] | None = None
    num_attempts: int = 0
    stop_by: float | None = None
    who: str = ""

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.plan.run_dir)


class LocalLauncher:
    """Runs jobs as subprocesses; may be used from several threads.

    Each job is a session of its own, so that Ctrl-C at the terminal reaches only who started it,
    and a killed launcher leaves jobs that its successor adopts.

    Args:
        num_parallel: Most jobs that run at a time.
        grace_s: Seconds that a job has to stop in before it is killed.
    """

    def __init__(self, num_parallel: int, grace_s: float = 10.0) -> None:
        self._num_parallel = num_parallel
        self._grace_s = grace_s
        self._jobs: dict[JobId, _Job] = {}
        self._is_closed = False
        self._lock = threading.Lock()

    def submit(self, plan: JobPlan) -> JobId:
        """Queue a job, see ``Launcher``; one that is queued or runs already is the same job."""
        job = id_of(plan.run_dir)
        with self._lock:
            if job not in self._jobs or self._jobs[job].state.is_final:
                state = JobState.INTERRUPTED if self._is_closed else JobState.WAITING
                self._jobs[job] = _Job(plan, state)
            self._advance()
        return job

    def submit_all(self, plans: Sequence[JobPlan]) -> list[JobId]:
        """Queue many jobs; see ``Launcher``."""
        return [self.submit(plan) for plan in plans]

    def poll(self, job: JobId) -> JobState:
        """Return where a job is now, without waiting."""
        with self._lock:
            self._advance()
            return self._jobs[job].state

    def describe(self, job: JobId) -> str:
        """Say where a job is: its process and its cores; see ``Launcher``."""
        with self._lock:
            entry = self._jobs.get(job)
            if entry is None:
                return ""
            if entry.state is JobState.WAITING:
                return f"waits until fewer than {self._num_parallel} jobs run here"
            who = entry.who or "it was never started"
            return f"{who}: {entry.state.value}"

    def wait(self, job: JobId, timeout_s: float) -> JobState:
        """Wait until a job has ended, or for some time; see ``Launcher``."""
        deadline = time.monotonic() + timeout_s
        while not (state := self.poll(job)).is_final and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return state

    def cancel(self, job: JobId) -> None:
        """Ask a job to stop; after the grace period it is killed."""
        with self._lock:
            self._cancel(self._jobs[job])

    def close(self) -> None:
        """Ask all jobs to stop, and start none any more."""
        with self._lock:
            self._is_closed = True
            for entry in self._jobs.values():
                self._cancel(entry)

    def _cancel(self, entry: _Job) -> None:
        if entry.state is JobState.WAITING:
            entry.state = JobState.INTERRUPTED
        elif entry.state is JobState.RUNNING and entry.stop_by is None:
            entry.stop_by = time.monotonic() + self._grace_s
            _send(entry, signal.SIGTERM)

    def _advance(self) -> None:
        """Bring all states up to date, and start what there is room for."""
        for entry in self._jobs.values():
            if entry.state is JobState.RUNNING:
                self._observe(entry)
        running = [job for job in self._jobs.values() if job.state is JobState.RUNNING]
        waiting = [job for job in self._jobs.values() if job.state is JobState.WAITING]
        for entry in waiting[: max(0, self._num_parallel - len(running))]:
            self._start(entry)

    def _start(self, entry: _Job) -> None:
        entry.state = JobState.RUNNING
        entry.num_attempts = len(entry.directory.attempts())
        if is_alive(entry.directory):  # started by a launcher before us
            self._adopt(entry)
            return
        plan = entry.plan
        environment = self._environment(plan)
        try:
            with entry.directory.stdout.open("ab") as output:
                entry.process = subprocess.Popen(
                    [sys.executable, "-m", plan.module, str(entry.directory.job)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._conclude(entry, None, f"could not be started: {error}")
        else:
            entry.who = f"process {entry.process.pid}{_cores_in_words(environment)}"

    def _adopt(self, entry: _Job) -> None:
        """Take over a job that runs already: its newest attempt is the one to watch."""
        entry.process = None
        entry.num_attempts = max(0, len(entry.directory.attempts()) - 1)
        entry.who = "a process that an earlier flow has left"
        if (started := _started(entry)) is not None:
            entry.who = f"process {started.pid} on {started.host}, which an earlier flow has left"

    def _environment(self, plan: JobPlan) -> dict[str, str]:
        # Safe path: a file named like a library in the working directory would replace it.
        environment = os.environ | {"PYTHONSAFEPATH": "1"}
        if not any(name in environment for name in _THREAD_VARIABLES):
            cores = plan.cpus or max(1, num_cores() // self._num_parallel)
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(cores))
        return environment | plan.environment

    def _observe(self, entry: _Job) -> None:
        if entry.stop_by is not None and time.monotonic() > entry.stop_by:
            _send(entry, signal.SIGKILL)
        if entry.process is None:
            if not is_alive(entry.directory):
                self._conclude(entry, _recorded_code(entry), "ended without saying why")
            return
        code = entry.process.poll()
        if code == EXIT_ALREADY_RUNNING:  # by hand, or by another launcher, in the meantime
            self._adopt(entry)
        elif code is not None:
            self._conclude(entry, code, _cause_of(code))

    def _conclude(self, entry: _Job, code: int | None, cause: str) -> None:
        """Set the final state; where the job itself could not write a result, write one for it."""
        was_stopped = entry.stop_by is not None and code != EXIT_FINISHED
        failed = JobState.INTERRUPTED if was_stopped else JobState.FAILED
        state = _STATES.get(EXIT_FAILED if code is None else code, failed)
        if state is not JobState.FINISHED and _recorded_code(entry) is None:
            _write_result(entry, state, code, cause)
        entry.state = state


def _send(entry: _Job, signum: signal.Signals) -> None:
    """Send a signal to a job: to its whole group if it is ours, else to its recorded process."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, PermissionError):
        if entry.process is not None:
            os.killpg(entry.process.pid, signum)
        elif (started := _started(entry)) and started.host == socket.gethostname():
            os.kill(started.pid, signum)


def _started(entry: _Job) -> Started | None:
    """Return who has claimed the newest attempt; None if there is none yet."""
    attempts = entry.directory.attempts()
    try:
        path = attempts[-1] / "started.json"
        return load_record(Started, path)
    except (DamagedFileError, IndexError, OSError):
        return None


def _cores_in_words(environment: Mapping[str, str]) -> str:
    """Say how many threads a job may use: as many as it has cores, if nobody says otherwise."""
    told = next(filter(None, (environment.get(name) for name in _THREAD_VARIABLES)), "")
    return f" on {told} core{'s' * (told != '1')}" if told.isdigit() else ""


def _recorded_code(entry: _Job) -> int | None:
    """Exit code that the job wrote itself; None if this attempt did not come to it."""
    attempts = entry.directory.attempts()
    if len(attempts) <= entry.num_attempts:
        return None
    try:
        return load_record(Exit, attempts[-1] / "exit.json").code
    except FileNotFoundError:
        return None
    except DamagedFileError:  # it did come to it, so its result stands, too
        return EXIT_FAILED


def _cause_of(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before it could say why"
    name = signal.Signals(-code).name
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _write_result(entry: _Job, state: JobState, code: int | None, cause: str) -> None:
    directory = entry.directory
    result = STOPPED
    if state is not JobState.INTERRUPTED:
        message = f"the job {cause}; see {directory.stdout}, continue with: watershed resume"
        result = Result(status="failed", reason=Reason.KILLED, message=message)
    write_result(directory, result)
    with contextlib.suppress(OSError):  # the disk may be full; the state stands without the file
        attempt = directory.attempt(entry.num_attempts + 1)
        attempt.mkdir(parents=True, exist_ok=True)  # the job may have died before it made one
        exit_code = EXIT_FAILED if code is None else code
        record = Exit(code=exit_code, timestamp_ms=time.time_ns() // 1_000_000)
        write_json(attempt / "exit.json", record.model_dump())
