"""Errors of the compute side."""

import errno
from enum import StrEnum
from pathlib import Path

_STORAGE_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file larger than the limit of this process",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "input/output error of the device",
}


class Reason(StrEnum):
    """Why a job failed, as it stands in ``result.json``; what helps is in ``local_diagnosis``.

    A file may have others: those of another version, and Slurm's (``FailureClass``) where the job
    itself could not say.
    """

    ARRIVALS = "arrivals"
    """The arrivals of the workers cannot be simulated as they are set."""
    CHECKPOINT = "checkpoint"
    """A checkpoint is damaged, of another experiment, or of an engine that this one cannot read."""
    CONFIGURATION = "configuration"
    """The job's input cannot be run, or a file of the run cannot be read."""
    DATA = "data"
    """The data are not there, or do not fit the experiment."""
    DEVICE = "device"
    """A GPU is wanted that is not there."""
    DIVERGED = "diverged"
    """The numbers are no longer finite."""
    ENGINE = "engine"
    """What the engine needs is not installed, or cannot be built."""
    INTERNAL = "internal"
    """An error that nobody expected."""
    JOURNAL = "journal"
    """``metrics.jsonl`` is shorter than the checkpoint says."""
    KILLED = "killed"
    """A signal has ended the process, which could not say why."""
    MEMORY = "memory"
    """There is too little of it, or it would not suffice."""
    PROCESS = "process"
    """The process of a Prefect flow run has ended with an error."""
    RANKS = "ranks"
    """The ranks were started otherwise than the training wants, or cannot reach each other."""
    RANK_LOST = "rank_lost"
    """A training has lost one of its ranks; itself it is sound."""
    RETURNS = "returns"
    """Returns of real workers that the server had taken are gone, or damaged."""
    SERVER = "server"
    """The server of this worker has failed."""
    STORAGE = "storage"
    """A file could not be written."""
    TRACE = "trace"
    """A trace of arrivals is faulty, or shorter than the checkpoint says."""


class JobError(Exception):
    """A job cannot go on; the message is for the user and says what to do.

    Attributes:
        reason: Why, in a word.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type["JobError"], tuple[Reason, str]]:
        # As it is sent from rank to rank; else only the message would be.
        return JobError, (self.reason, str(self))


class DamagedFileError(JobError, ValueError):
    """A file of a run, or of a study, cannot be read; the message is for the user.

    It is cut off, or another version of Watershed has written it. It is no answer to whether its
    job has run: nothing may be submitted on the strength of it.

    Attributes:
        path: The file.
        fault: What is wrong with it, such as ``is empty``.
        advice: What to do next.
    """

    def __init__(self, path: Path, fault: str, advice: str) -> None:
        self.path, self.fault, self.advice = path, fault, advice
        super().__init__(Reason.CONFIGURATION, f"{path} {fault}; {advice}")

    def __reduce__(self) -> tuple[type["JobError"], tuple[Reason, str]]:
        return JobError, (self.reason, str(self))


def memory_error(error: BaseException) -> JobError | None:
    """Translate an error about memory, Python's, the system's or torch's; None for any other.

    torch raises a RuntimeError on the CPU, and a child of it on a GPU, each with such words.
    """
    is_ours = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )
    is_torch = isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )
    if not (is_ours or is_torch):
        return None
    return JobError(
        Reason.MEMORY, "out of memory; use fewer workers, a smaller batch or a smaller model"
    )


def storage_error(error: BaseException) -> JobError | None:
    """Translate an operating-system error about storage; None if it is about something else."""
    if not isinstance(error, OSError):
        return None
    words = _STORAGE_ERRNOS.get(error.errno or 0)
    if words is None:
        return None
    where = f" writing {error.filename}" if error.filename else ""
    return JobError(
        Reason.STORAGE, f"{words}{where}; free some, then continue with: watershed resume"
    )
