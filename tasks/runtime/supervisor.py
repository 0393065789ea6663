"""Watches the jobs of the wrapper: one thread that waits for signals, and looks once a second.

All signals of interest stay blocked, and are waited for: none can come at a bad moment, whether
before the job exists or while it is being written how it ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.runtime.attempt import Claimant, Refused, claim, slurm_job, write_exit
from tasks.runtime.fence import Fence, disarm
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    EXIT_ALREADY_RUNNING,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    beat,
    read_record,
)

_STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOP_SIGNALS, signal.SIGCHLD)
_LOOK_S = 1.0
_HEARTBEAT_S = 10.0
_FENCE_S = 5.0
"""Thousands of jobs that ask every second for a newer attempt are felt by a file system; what is
overtaken writes nothing in the meantime (see ``fence``)."""
_REQUEUE_TIMEOUT_S = 60.0
_EXIT_CANNOT_START, _EXIT_NOT_FOUND = 126, 127  # as a shell has them
_PR_SET_PDEATHSIG = 1
_TOLD: dict[int | str, int] = {"interrupted": EXIT_INTERRUPTED, "failed": EXIT_FAILED}
"""Ends by the engine's result, which srun may hide."""
_STDERR = 2


class _Job:
    """The process that works for one attempt.

    Args:
        directory: Of the run.
        number: Of the attempt.
        command: What to run on ``job.json``.

    Attributes:
        exit_code: How it ended; None while it runs.
        asks_requeue: Whether it has stopped before the time limit, and is to go on.
    """

    def __init__(self, directory: RunDirectory, number: int, command: Sequence[str]) -> None:
        self.exit_code: int | None = None
        self.asks_requeue = False
        self._directory = directory
        self._attempt = directory.attempt(number)
        self._fence = Fence(directory.path, number)
        self._first_checkpoints = _checkpoints(directory)
        self._first_result = _written(directory.result)
        self._has_moved = False
        self._next_beat_s = self._next_fence_s = 0.0
        # srun answers SIGTERM by killing its tasks at once, and passes SIGUSR1 on (Slurm 22.05).
        is_step = Path(command[0]).name == "srun"
        self._stop_signal = signal.SIGUSR1 if is_step else signal.SIGTERM
        self._was_asked = False
        self._process = self._start(command)

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes] | None":
        try:
            with self._directory.stdout.open("ab") as output:
                return subprocess.Popen(
                    [*command, str(self._directory.job)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self._fence.environment(),
                    process_group=0,
                    preexec_fn=_prepare_child,  # noqa: PLW1509  there is one thread
                )
        except OSError as error:
            say(f"cannot run {command[0]}: {error}")
            is_missing = isinstance(error, FileNotFoundError)
            self.exit_code = _EXIT_NOT_FOUND if is_missing else _EXIT_CANNOT_START
            return None

    def stop(self) -> None:
        """Ask the process to save and to stop."""
        if self._process is not None and self.exit_code is None:
            os.kill(self._process.pid, self._stop_signal)  # never reaped before we look
            self._was_asked = True

    def look(self) -> None:
        """Beat, and see whether the process has ended, or has to."""
        if self._process is None or self.exit_code is not None:
            return
        if time.monotonic() >= self._next_beat_s:
            beat(self._attempt, self._process.pid)
            self._next_beat_s = time.monotonic() + _HEARTBEAT_S
        # It is not reaped before its group is killed: the group's number cannot be another's.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        has_ended = os.waitid(os.P_PID, self._process.pid, flags) is not None
        is_overtaken = (has_ended or self._is_to_ask()) and self._is_overtaken()
        if has_ended or is_overtaken:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
            self.exit_code = self._corrected(code if code >= 0 else 128 - code)
            if self._was_asked and self.exit_code == 128 + self._stop_signal:
                self.exit_code = EXIT_INTERRUPTED  # it was not yet ready to be asked
        if is_overtaken:
            self.exit_code = EXIT_ALREADY_RUNNING

    def _corrected(self, code: int) -> int:
        """Return an exit code; another one for 0 if the engine has told of another end.

        srun may leave 0 for ranks that it was asked to stop while the job was cancelled (Slurm
        22.05): taken for a good end, half a training would pass as a whole one.
        """
        result = self._directory.result
        if code != EXIT_FINISHED or _written(result) == self._first_result:
            return code
        with contextlib.suppress(OSError):
            return _TOLD.get(read_record(result).get("status", ""), code)
        return code

    def _is_to_ask(self) -> bool:
        """Whether it is time to look for a newer attempt."""
        if time.monotonic() < self._next_fence_s:
            return False
        self._next_fence_s = time.monotonic() + _FENCE_S
        return True

    def _is_overtaken(self) -> bool:
        try:
            return not self._fence.holds()
        except OSError:  # the file system will answer again, or fail the process, too
            return False

    def conclude(self, signals: Sequence[str], *, may_requeue: bool) -> None:
        """Write how the attempt has ended.

        Args:
            signals: What it was sent.
            may_requeue: Whether it may ask Slurm to queue the job again.
        """
        with contextlib.suppress(OSError):
            disarm(self._attempt)  # nothing that it has left behind writes any more
        self._has_moved = not _checkpoints(self._directory) <= self._first_checkpoints
        if may_requeue and self.exit_code == EXIT_INTERRUPTED:
            self.asks_requeue = self._has_moved
            if not self._has_moved:
                say(f"{self._directory.path} has saved nothing new, and is not queued again")
        self._write_exit(signals)

    def take_back(self, signals: Sequence[str]) -> None:
        """Write that the job was not queued again.

        Args:
            signals: What the attempt was sent.
        """
        if self.asks_requeue:
            self.asks_requeue = False
            self._write_exit(signals)

    def _write_exit(self, signals: Sequence[str]) -> None:
        try:
            write_exit(
                self._attempt,
                EXIT_FAILED if self.exit_code is None else self.exit_code,
                signals=signals,
                requeued=self.asks_requeue,
                checkpoint_moved=self._has_moved,
            )
        except OSError as error:
            say(f"cannot write how {self._attempt} has ended: {error}")


class Supervisor:
    """Runs the jobs of some runs, and ends when all have ended.

    Args:
        command: The job, without the path of its ``job.json``.
        claimant: Who asks for the runs.
        parallel: Most jobs that run at a time.
        requeue: Whether Slurm may be asked to queue the job again.
    """

    def __init__(
        self, command: Sequence[str], claimant: Claimant, *, parallel: int, requeue: bool
    ) -> None:
        self._command = command
        self._claimant = claimant
        self._parallel = parallel
        self._requeue = requeue
        self._signals: list[str] = []
        self._running: list[_Job] = []
        self._ended: list[_Job] = []

    def run(self, directories: Sequence[RunDirectory]) -> int:
        """Run the jobs.

        Args:
            directories: The runs, in the order in which they begin.

        Returns:
            The worst exit code: an error before a stop, a stop before a refusal.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children leave no exit code
        signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
        self._wait(0)  # what came while the interpreter started
        waiting, codes = list(directories), []
        while self._running or (waiting and not self._signals):
            while waiting and not self._signals and len(self._running) < self._parallel:
                code = self._begin(waiting.pop(0))
                codes += [] if code is None else [code]
            self._look()
            if self._running:
                self._wait(_LOOK_S)
        codes += [EXIT_FAILED if job.exit_code is None else job.exit_code for job in self._ended]
        if waiting:
            codes.append(EXIT_INTERRUPTED)
        self._wait(0)
        is_worth_it = any(
            job.asks_requeue or (waiting and job.exit_code == EXIT_FINISHED) for job in self._ended
        )
        if not (is_worth_it and self._may_requeue() and _ask_requeue()):
            for job in self._ended:
                job.take_back(self._signals)
        return _worst(codes)

    def _begin(self, directory: RunDirectory) -> int | None:
        """Claim a run and start its job; the exit code if it cannot be."""
        try:
            number = claim(directory, self._claimant)
        except Refused as reason:
            say(str(reason))
            return reason.code
        except OSError as error:
            say(f"cannot claim {directory.path}: {error}")
            return EXIT_FAILED
        self._running.append(_Job(directory, number, self._command))
        return None

    def _look(self) -> None:
        for job in list(self._running):
            job.look()
            if job.exit_code is not None:
                job.conclude(self._signals, may_requeue=self._may_requeue())
                self._running.remove(job)
                self._ended.append(job)

    def _wait(self, timeout_s: float) -> None:
        """Wait for a signal, and pass on all that have come."""
        received = signal.sigtimedwait(_SIGNALS, timeout_s)
        while received is not None:
            if received.si_signo in _STOP_SIGNALS:
                self._signals.append(signal.Signals(received.si_signo).name)
                for job in self._running:
                    job.stop()
            received = signal.sigtimedwait(_SIGNALS, 0)

    def _may_requeue(self) -> bool:
        # SIGTERM comes from Slurm, which knows itself whether the job goes on (preempted) or does
        # not (cancelled): asked for, even a cancelled job would be queued again.
        return self._requeue and set(self._signals) == {"SIGUSR1"}


def _checkpoints(directory: RunDirectory) -> set[tuple[str, int]]:
    """Return what tells checkpoints apart; a file that is written anew is another one."""
    try:
        entries = [entry for entry in os.scandir(directory.checkpoints) if entry.name[0] != "."]
        return {(entry.name, entry.stat().st_mtime_ns) for entry in entries}
    except OSError:
        return set()


def _written(path: Path) -> int | None:
    """Return when a file was written; None if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _ask_requeue() -> bool:
    """Have Slurm queue this job again; it ends us soon afterwards."""
    try:
        ended = subprocess.run(
            ["scontrol", "requeue", slurm_job()],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=_REQUEUE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"the job is not queued again: {error}")
        return False
    return ended.returncode == 0


def _worst(codes: Sequence[int]) -> int:
    for code in (EXIT_FINISHED, EXIT_ALREADY_RUNNING, EXIT_INTERRUPTED):
        codes = [found for found in codes if found != code] or [code]
    return max(codes)


def _load_prctl() -> "Callable[[int, int], int] | None":
    try:
        import ctypes  # noqa: PLC0415  some Pythons are built without it

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # not on Linux
        return None


_PRCTL = _load_prctl()
_OUR_PID = os.getpid()


def _prepare_child() -> None:
    """Undo in the child what we have done to our signals; let it die with us."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != _OUR_PID:  # it was too late for that
            os._exit(EXIT_FAILED)


def say(text: str) -> None:
    """Say something in the output of the batch script, if that can be written.

    Args:
        text: What to say.
    """
    # Not by sys.stderr: where the file system is full, that keeps what it could not write, and the
    # interpreter ends with code 120 for it.
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"watershed: {text}\n".encode(errors="replace"))
