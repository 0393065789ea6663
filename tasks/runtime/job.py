"""The life of one attempt: lock, started, result, exit. Every ``*_job`` module runs inside it."""

import fcntl
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.runtime.atomic_files import as_json
from tasks.runtime.attempt import Claimant, Refused, claim, write_exit
from tasks.runtime.errors import DamagedFileError, JobError, Reason, memory_error, storage_error
from tasks.runtime.fence import Fence, Overtaken
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    EXIT_ALREADY_RUNNING,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
)
from tasks.runtime.stopping import Interrupted, stoppable

__all__ = [
    "EXIT_ALREADY_RUNNING",
    "EXIT_FAILED",
    "EXIT_FINISHED",
    "EXIT_INTERRUPTED",
    "Interrupted",
    "ToldByAnother",
    "earlier_result",
    "explained",
    "run_from_command_line",
    "run_job",
]

_EXIT_USAGE = 2

_CODES = {
    "finished": EXIT_FINISHED,
    "failed": EXIT_FAILED,
    "interrupted": EXIT_INTERRUPTED,
}


class ToldByAnother(BaseException):
    """Another process of the job writes the result.

    Attributes:
        code: Exit code of this one.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


def run_job(job_path: Path, work: Callable[[RunDirectory], Result]) -> int:
    """Run one attempt, and leave files that say how it went.

    SIGTERM, SIGINT and SIGUSR1 end the work as interrupted; afterwards they are ignored for good,
    as the process has only its files left to write. A child of the wrapper finds its attempt
    claimed, and leaves its end to the wrapper.

    Args:
        job_path: ``job.json`` in the run's directory.
        work: Does the work; may raise ``JobError`` for a reason that the user can act on, and
            ``ToldByAnother`` in all processes of a job but one.

    Returns:
        The exit code; 75 if another attempt of this run is alive, or a newer one has begun.
    """
    directory = RunDirectory(job_path.resolve().parent)
    fence = Fence.of_environment(directory.path)
    try:
        if fence.attempt:
            return _work(directory, work, fence)
        return _run_alone(directory, work, fence)
    except (Refused, Overtaken) as reason:
        sys.stderr.write(f"{reason}\n")
        return EXIT_ALREADY_RUNNING
    except ToldByAnother as end:
        return end.code


def run_from_command_line(
    module: str,
    work: Callable[[RunDirectory], Result],
    argv: Sequence[str] | None,
    *,
    when_finished: Callable[[RunDirectory], None] | None = None,
) -> int:
    """Run the job whose ``job.json`` is the only argument.

    Args:
        module: Name of the module that was started, for the usage.
        work: See ``run_job``.
        argv: The arguments; None for the process's.
        when_finished: Called when the job has finished and its result is written.

    Returns:
        The exit code, see ``run_job``; 2 for wrong arguments.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write(f"usage: python -m {module} RUN_DIRECTORY/job.json\n")
        return _EXIT_USAGE
    job_path = Path(arguments[0])
    code = run_job(job_path, work)
    if code == EXIT_FINISHED and when_finished is not None:
        when_finished(RunDirectory(job_path.resolve().parent))
    return code


def _run_alone(
    directory: RunDirectory, work: Callable[[RunDirectory], Result], fence: Fence
) -> int:
    """Run an attempt that the wrapper has not started.

    Raises:
        Refused: Another attempt is alive.
    """
    with directory.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"another attempt of {directory.path} is running") from error
        try:
            attempt = directory.attempt(claim(directory, Claimant()))
        except OSError as error:
            return _conclude(directory, explained(error), fence)
        code = _work(directory, work, fence)
        try:
            write_exit(attempt, code)
        except OSError as error:
            sys.stderr.write(f"cannot write the exit code: {error}\n")
        return code


def _work(directory: RunDirectory, work: Callable[[RunDirectory], Result], fence: Fence) -> int:
    began = time.monotonic()
    with stoppable():
        result = _outcome(directory, work)
    return _conclude(directory, result, fence, wall_s=time.monotonic() - began)


def _outcome(directory: RunDirectory, work: Callable[[RunDirectory], Result]) -> Result:
    try:
        return work(directory)
    except Interrupted:
        message = "stopped; continue with: watershed resume"
        return Result(status="interrupted", message=message)
    except Exception as error:  # noqa: BLE001  the entry point: every end leaves a result
        return explained(error)


def explained(error: BaseException) -> Result:
    """Return the result of a job that an error has ended; one that nobody expected is printed.

    Args:
        error: What ended it.
    """
    known = error if isinstance(error, JobError) else memory_error(error) or storage_error(error)
    if known is not None:
        return Result(status="failed", reason=known.reason, message=str(known))
    traceback.print_exception(error)
    message = f"{type(error).__name__}: {error} (see stdout.log)"
    return Result(status="failed", reason=Reason.INTERNAL, message=message)


def earlier_result(directory: RunDirectory) -> Result | None:
    """Read how an earlier attempt has ended.

    Args:
        directory: The run directory.

    Returns:
        Its result; None if there is none, or it cannot be read: this attempt writes it anew.

    Raises:
        OSError: It cannot be read.
    """
    try:
        return directory.read_result()
    except DamagedFileError:
        return None


def _conclude(directory: RunDirectory, result: Result, fence: Fence, *, wall_s: float = 0.0) -> int:
    """Write the result, and return the exit code."""
    earlier = earlier_result(directory)
    wall_s += earlier.wall_s if earlier else 0.0
    try:
        content = as_json(result.model_copy(update={"wall_s": wall_s}).model_dump())
        fence.write(directory.result, content)
    except OSError as error:  # the disk may be full; the exit code and this line remain
        sys.stderr.write(f"cannot write the result: {error}\n")
        if result.status == "finished":  # without a result it has not
            return EXIT_FAILED
    if result.message:
        sys.stderr.write(f"{result.status}: {result.message}\n")
    return _CODES[result.status]
