"""Attempts: who may run a run directory now, and the files by which that is known.

An attempt is a directory, ``attempts/<k>``. To make it is to claim the run: a temporary directory
that holds ``started.json`` already is renamed to it, which succeeds for one claimant alone, on
every POSIX file system, those of a network included. No clock and no lock takes part in it.

The standard library alone is imported: the wrapper on the node starts with this.
"""

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.runtime.atomic_files import as_json, write_json
from tasks.runtime.fence import disarm, make_outgoing
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import (
    EXIT,
    EXIT_ALREADY_RUNNING,
    EXIT_FINISHED,
    HEARTBEAT,
    STARTED,
    is_beating,
    is_locked,
    now_ms,
    read_record,
)

_SETTLED = set(range(128)) - {EXIT_ALREADY_RUNNING}
"""Exit codes of a job that came to its end itself: a restart of it would do the same again."""
_NOT_MADE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT}
"""Another claimant was faster, or has swept our temporary directory away."""


class Claimant:
    """Who wants to run: what ``records.Started`` says of a job of Slurm.

    Args:
        submission: Number of the submission, from 1; 0 without Slurm.
        slurm_job: Slurm's id: ``12``, or ``12_3`` in an array.
        restarts: How often Slurm has queued the job again.
        place: The fields ``cluster``, ``partition`` and ``node``.
    """

    def __init__(
        self,
        submission: int = 0,
        slurm_job: str = "",
        restarts: int = 0,
        place: Mapping[str, str] | None = None,
    ) -> None:
        self.submission = submission
        self.slurm_job = slurm_job
        self.restarts = restarts
        self._place = place or {}

    @classmethod
    def of_environment(cls, submission: int) -> "Claimant":
        """Return the job that this process is in, as Slurm's variables tell it.

        Args:
            submission: Number of the submission.
        """
        variables = os.environ
        place = {
            "cluster": variables.get("SLURM_CLUSTER_NAME", ""),
            "partition": variables.get("SLURM_JOB_PARTITION", ""),
            "node": variables.get("SLURMD_NODENAME", ""),
        }
        restarts = int(variables.get("SLURM_RESTART_COUNT", "0"))
        return cls(submission, slurm_job(), restarts, place)

    def started(self) -> dict[str, int | str]:
        """Return what ``started.json`` says of an attempt that is claimed now."""
        return {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "timestamp_ms": now_ms(),
            "submission": self.submission,
            "slurm_job": self.slurm_job,
            "restarts": self.restarts,
            **self._place,
        }


class Refused(Exception):  # noqa: N818  an answer
    """The run is with somebody else, or over; the message says so.

    Attributes:
        code: Exit code of a claimant that is refused.
    """

    def __init__(self, message: str, *, code: int = EXIT_ALREADY_RUNNING) -> None:
        self.code = code
        super().__init__(message)


def slurm_job() -> str:
    """Return Slurm's id of the job that this process is in; empty outside of Slurm."""
    variables = os.environ
    if "SLURM_ARRAY_JOB_ID" in variables:
        return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return variables.get("SLURM_JOB_ID", "")


def claim(directory: RunDirectory, claimant: Claimant) -> int:
    """Make the next attempt of a run, if the run is the claimant's to go on with.

    Args:
        directory: The run directory.
        claimant: Who asks.

    Returns:
        Number of the attempt; all attempts before it can write no more.

    Raises:
        Refused: Another job has the run, or it has finished.
        OSError: The attempt cannot be made.
    """
    parent = directory.attempt(1).parent
    parent.mkdir(exist_ok=True)
    while True:
        attempts = directory.attempts()
        if attempts:
            _check(directory, attempts[-1], claimant)
        number = int(attempts[-1].name) + 1 if attempts else 1
        if _make(directory.attempt(number), claimant):
            break
    _sweep(parent)
    for older in reversed(attempts):
        disarm(older)
        if (older / HEARTBEAT).exists():
            break  # it began to work, so it had disarmed those before it
    return number


def write_exit(
    attempt: Path,
    code: int,
    *,
    signals: Sequence[str] = (),
    requeued: bool = False,
    checkpoint_moved: bool = True,
) -> None:
    """Write how an attempt has ended; the fields are those of ``records.Exit``.

    Args:
        attempt: Directory of the attempt.
        code: Exit code.
        signals: What it was sent, in order.
        requeued: Whether it asks Slurm to queue the job again.
        checkpoint_moved: Whether it left a checkpoint that was not there at its start.

    Raises:
        OSError: The file cannot be written.
    """
    record = {
        "code": code,
        "timestamp_ms": now_ms(),
        "signals": list(signals),
        "requeued": requeued,
        "checkpoint_moved": checkpoint_moved,
    }
    write_json(attempt / EXIT, record)


def _check(directory: RunDirectory, newest: Path, claimant: Claimant) -> None:
    """Compare a claimant with the newest attempt.

    One without Slurm holds the run's lock, and gives way to a job that is alive. A job may go on
    after a process that has given up the lock, after any earlier submission (the ledger makes a
    new one only when the last one is over), and after itself if Slurm has queued it again: its old
    incarnation may then be alive somewhere, and is overtaken.

    Raises:
        Refused: It may not go on.
        OSError: The attempt's files cannot be read.
    """
    if not claimant.submission:
        if is_beating(directory):
            raise Refused(f"job {read_record(newest / STARTED)['slurm_job']} runs {directory.path}")
        return
    holder, ended = read_record(newest / STARTED), read_record(newest / EXIT)
    submission, job = int(holder.get("submission", 0)), str(holder.get("slurm_job", ""))
    process = f"process {holder.get('pid', '?')} on {holder.get('node') or holder.get('host', '?')}"
    is_same_job = (submission, job) == (claimant.submission, claimant.slurm_job)
    is_restart = is_same_job and int(holder.get("restarts", 0)) < claimant.restarts
    code = ended.get("code")
    if is_restart and code in _SETTLED:
        raise Refused(f"{directory.path} had ended before the job was queued again", code=code)
    if code == EXIT_FINISHED:
        raise Refused(f"{directory.path} has finished")
    if not submission and is_locked(directory):
        raise Refused(f"{process} runs {directory.path}, without Slurm")
    if submission >= claimant.submission and not is_restart:
        raise Refused(
            f"submission {submission} of {directory.path} {'had' if ended else 'has'} begun, as "
            f"job {job or '(none)'}, {process}; this is submission {claimant.submission}. If that "
            "job is over, and the run is to go on: "
            f"WATERSHED_SUBMISSION={submission + 1} sbatch job.sh"
        )


def _make(attempt: Path, claimant: Claimant) -> bool:
    """Make an attempt's directory, with all that has to be in it.

    Returns:
        Whether it was made; False if the number is taken by now.

    Raises:
        OSError: It cannot be made.
    """
    content = as_json(claimant.started())
    temporary = _unique(attempt.parent)
    temporary.mkdir()
    try:
        # Not synced: a crash that takes the claim from a disk takes the claimant, too.
        (temporary / STARTED).write_bytes(content)
        if claimant.submission:
            make_outgoing(temporary)
        temporary.rename(attempt)
    except OSError as error:
        # NFS may have renamed it, lost the answer, asked again and been told that it is not there.
        if not _is_content(attempt / STARTED, content):
            _clear(temporary)
            if error.errno not in _NOT_MADE:
                raise
            return False
    return True


def _unique(parent: Path) -> Path:
    return parent / f".{os.uname().nodename}-{os.getpid()}-{time.monotonic_ns()}"


def _sweep(parent: Path) -> None:
    """Remove what claimants have left who were killed.

    A living one may be about to rename what is removed here, so it is renamed first; that claimant
    begins anew.
    """
    for left_over in parent.glob(".*"):
        doomed = _unique(parent)
        with contextlib.suppress(OSError):
            left_over.rename(doomed)
            _clear(doomed)


def _clear(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        directory.rmdir()


def _is_content(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
