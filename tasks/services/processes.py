"""What ``/proc`` tells of processes. Where there is none (macOS), every answer is empty."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_PARENT, _SESSION, _START_TICKS = 1, 3, 19
"""Fields of ``/proc/PID/stat`` behind the command's name, from 0; see proc(5)."""


class Process(NamedTuple):
    """A process that cannot be confused with a later one of the same number.

    Attributes:
        pid: Its number.
        start_ticks: When it was started, in clock ticks since boot; 0 where that is not known.
    """

    pid: int
    start_ticks: int


def boot_id() -> str:
    """Return what tells this boot of the machine from others; empty where that is not known."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> Process:
    """Return a process with the time of its start.

    Args:
        pid: Its number.
    """
    fields = _stat(pid)
    return Process(pid, int(fields[_START_TICKS]) if fields else 0)


def is_running(process: Process) -> bool:
    """Say whether a process is there: that one, not a later one of the same number; no zombie.

    Args:
        process: The process.
    """
    fields = _stat(process.pid)
    if not fields:
        return False
    return fields[0] != "Z" and process.start_ticks in {0, int(fields[_START_TICKS])}


def session_of(pid: int) -> int:
    """Return the session of a process; 0 if it is gone.

    Args:
        pid: Its number.
    """
    fields = _stat(pid)
    return int(fields[_SESSION]) if fields else 0


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it is gone or another user's secret.

    Args:
        pid: Its number.
    """
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return text.replace(b"\0", b" ").decode(errors="replace").strip()


def variable_of(pid: int, name: str) -> str:
    """Return an environment variable that a process was started with.

    Args:
        pid: Its number.
        name: Of the variable.

    Returns:
        Its value; empty if it was not set, or the process is gone or another user's.
    """
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return ""
    prefix = f"{name}=".encode()
    found = next((word for word in environment.split(b"\0") if word.startswith(prefix)), b"")
    return found.removeprefix(prefix).decode(errors="replace")


def has_variable(pid: int, name: str, text: str) -> bool:
    """Say whether a process was started with an environment variable.

    Args:
        pid: Its number.
        name: Of the variable.
        text: Its value, not empty.
    """
    return variable_of(pid, name) == text


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on; zombies are left out.

    Args:
        pid: Its number.
    """
    children: dict[int, list[int]] = {}
    for entry in all_processes():
        fields = _stat(entry)
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[_PARENT]), []).append(entry)
    found, waiting = [], [pid]
    while waiting:
        born = children.get(waiting.pop(), [])
        found += born
        waiting += born
    return found


def holder_of(port: int) -> int | None:
    """Return the process that listens on a port, as far as this user may know.

    Args:
        port: The TCP port, on any address.

    Returns:
        Its number; None if nobody listens there, or it is another user's.
    """
    inodes = _listening(port)
    for pid in all_processes() if inodes else ():
        with contextlib.suppress(OSError):
            for link in (_PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()).removeprefix("socket:[").removesuffix("]") in inodes:
                        return pid
    return None


def owner_of(port: int) -> int | None:
    """Return the user id of who listens on a port; None if nobody does.

    Args:
        port: The TCP port, on any address.
    """
    return next(iter(_listening(port).values()), None)


def _listening(port: int) -> dict[str, int]:
    """Inodes of the sockets that listen on a port, and the user ids of their owners."""
    found = {}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, uid, _, inode, *_ = line.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    found[inode] = int(uid)
    return found


def all_processes() -> list[int]:
    """Return the numbers of all processes that this user may know of."""
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208  only names
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """Fields of a process's ``stat`` from its state on; none if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
