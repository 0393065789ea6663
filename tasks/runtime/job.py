"""The life of one attempt: lock, started, result, exit. Every ``*_job`` module runs inside it."""

import fcntl
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tasks.runtime.atomic_files import write_json
from tasks.runtime.errors import JobError, memory_error, storage_error
from tasks.runtime.records import Exit, Result, Started
from tasks.runtime.run_directory import RunDirectory

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_ALREADY_RUNNING = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERRUPTED = 143  # 128 + SIGTERM, as a shell would report it


class Interrupted(BaseException):
    """The job was asked to stop; it continues from its last checkpoint when started again."""


def run_job(job_path: Path, work: Callable[[RunDirectory], Result]) -> int:
    """Run one attempt, and leave files that say how it went.

    SIGTERM and SIGINT end the work as interrupted; afterwards they are ignored for good, as the
    process has only its files left to write.

    Args:
        job_path: ``job.json`` in the run's directory.
        work: Does the work; may raise ``JobError`` for a reason that the user can act on.

    Returns:
        The exit code; 75 if another attempt of this run is alive.
    """
    directory = RunDirectory(job_path.resolve().parent)
    with directory.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"another attempt of {directory.path} is running\n")
            return EXIT_ALREADY_RUNNING
        return _run_attempt(directory, work)


def _run_attempt(directory: RunDirectory, work: Callable[[RunDirectory], Result]) -> int:
    began = time.monotonic()
    attempt = directory.attempt(len(directory.attempts()) + 1)
    with _stoppable():
        result, code = _outcome(directory, attempt, work)
    earlier = directory.read_result()
    wall_s = time.monotonic() - began + (earlier.wall_s if earlier else 0.0)
    try:
        write_json(directory.result, result.model_copy(update={"wall_s": wall_s}).model_dump())
        write_json(attempt / "exit.json", Exit(code=code, timestamp_ms=_now_ms()).model_dump())
    except OSError as error:  # the disk may be full; the exit code and this line remain
        sys.stderr.write(f"cannot write the result: {error}\n")
    if result.message:
        sys.stderr.write(f"{result.status}: {result.message}\n")
    return code


def _outcome(
    directory: RunDirectory, attempt: Path, work: Callable[[RunDirectory], Result]
) -> tuple[Result, int]:
    try:
        attempt.mkdir(parents=True)
        started = Started(pid=os.getpid(), host=socket.gethostname(), timestamp_ms=_now_ms())
        write_json(attempt / "started.json", started.model_dump())
        result = work(directory)
    except JobError as error:
        return _failed(error.reason, str(error)), EXIT_FAILED
    except Interrupted:
        message = "stopped; continue with: watershed resume"
        return Result(status="interrupted", message=message), EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  the entry point: every end leaves a result
        known = memory_error(error) or storage_error(error)
        if known is not None:
            return _failed(known.reason, str(known)), EXIT_FAILED
        traceback.print_exc()
        message = f"{type(error).__name__}: {error} (see stdout.log)"
        return _failed("internal", message), EXIT_FAILED
    return result, EXIT_FINISHED if result.status == "finished" else EXIT_FAILED


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into ``Interrupted`` inside, and ignore them while we clean up."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise Interrupted

    signals = (signal.SIGTERM, signal.SIGINT)
    for signum in signals:
        signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum in signals:
            signal.signal(signum, signal.SIG_IGN)


def _failed(reason: str, message: str) -> Result:
    return Result(status="failed", reason=reason, message=message)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
