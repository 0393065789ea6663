"""Signs of life in a run directory: what an attempt leaves there, and who is alive by it.

The standard library alone is imported: the wrapper on the node starts with this.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from pathlib import Path

from tasks.runtime.atomic_files import as_json
from tasks.runtime.run_directory import RunDirectory

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_ALREADY_RUNNING = 75  # EX_TEMPFAIL of sysexits.h
EXIT_INTERRUPTED = 143  # 128 + SIGTERM, as a shell would report it

STARTED, HEARTBEAT, EXIT = "started.json", "heartbeat.json", "exit.json"

SILENT_AFTER_S = 60.0
"""Six heartbeats; a file system under load may hold one back, not six."""


def beat(attempt: Path, child_pid: int) -> None:
    """Say that an attempt is alive; where nothing can be written, by its file's time alone.

    Args:
        attempt: Directory of the attempt.
        child_pid: Process that does the work.
    """
    path = attempt / HEARTBEAT
    temporary = attempt / f".{HEARTBEAT}"
    record = {
        "timestamp_ms": now_ms(),
        "child_pid": child_pid,
        "checkpoint_ms": _checkpoint_ms(RunDirectory(attempt.parent.parent)),
    }
    try:
        # Not synced: a crash that takes the heartbeat takes the heart, too.
        temporary.write_bytes(as_json(record))
        temporary.replace(path)
    except OSError:  # a full disk is no reason to end what may need no more of it
        with contextlib.suppress(OSError):
            os.utime(path)


def _checkpoint_ms(directory: RunDirectory) -> int | None:
    """Return when the newest checkpoint was written, Unix milliseconds; None without one."""
    newest_ns = 0
    with contextlib.suppress(OSError), os.scandir(directory.checkpoints) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                newest_ns = max(newest_ns, entry.stat().st_mtime_ns)
    return newest_ns // 1_000_000 or None


def is_locked(directory: RunDirectory) -> bool:
    """Say whether a process without Slurm runs a run: it holds the lock of the run directory.

    The lock goes with its process, however that ends. Asking holds it for an instant, so ask only
    where no such process is being started.

    Args:
        directory: The run directory.

    Returns:
        Whether the lock is held; False if there is none, or the file system has no locks.

    Raises:
        OSError: The lock file cannot be opened, for another reason than that it is absent.
    """
    try:
        lock = directory.lock.open("rb")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
                raise
    return False


def is_beating(directory: RunDirectory) -> bool:
    """Say whether a job of Slurm runs a run: it has not ended, and its heartbeat is fresh.

    Ages are differences of two times that one file system has given; the node's clock has no say
    where the file system stamps its files itself.

    Args:
        directory: The run directory.

    Returns:
        Whether the newest attempt is of such a job.

    Raises:
        OSError: Its files cannot be looked at.
    """
    attempts = directory.attempts()
    if not attempts or (attempts[-1] / EXIT).exists():
        return False
    if not read_record(attempts[-1] / STARTED).get("submission"):
        return False
    signs = (attempts[-1] / name for name in (STARTED, HEARTBEAT))
    newest_s = max(path.stat().st_mtime for path in signs if path.exists())
    return file_system_now(directory.path) - newest_s < SILENT_AFTER_S


def file_system_now(directory: Path) -> float:
    """Return the time by which a file system stamps its files: that of a file touched just now.

    Args:
        directory: A directory on it.

    Returns:
        Unix time; by this machine's clock if nothing can be written there.
    """
    probe = directory / f".clock.{os.getpid()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def now_ms() -> int:
    """Return this machine's time, Unix milliseconds: for people, never to compare by."""
    return time.time_ns() // 1_000_000


def read_record(path: Path) -> dict[str, int | str]:
    """Read a record of an attempt.

    Args:
        path: The file.

    Returns:
        Its fields that are words or numbers; none if it is absent, or was torn by a crash.

    Raises:
        OSError: It cannot be read.
    """
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    fields = record.items() if isinstance(record, dict) else ()
    return {name: value for name, value in fields if isinstance(value, int | str)}
