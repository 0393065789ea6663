"""Starts servers, watches them, and stops them: each with a keeper of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field

from tasks.services.diagnosis import end_of_log
from tasks.services.plan import Service
from tasks.services.processes import (
    Process,
    all_processes,
    command_of,
    identify,
    is_running,
    session_of,
)
from tasks.services.state import KeptProcess

_GRACE_S = 10.0
PATIENCE_S = 75.0
"""How long flow runs may take to stop their jobs; as for ``watershed run``."""
_POLL_S = 0.2
_STEADY_S = 60.0
"""A server that ran for less has a fault that starting it again does not mend."""
_MAX_RESTARTS, _WITHIN_S = 3, 3600.0


@dataclass
class Served:
    """A server that was started.

    Attributes:
        service: What it is.
        process: Its keeper.
        log_start: Length of its log when it was started.
        started_s: When it was, on the monotonic clock.
        restarts: When it was started again, on that clock.
    """

    service: Service
    process: "subprocess.Popen[bytes]"
    log_start: int
    started_s: float
    restarts: list[float] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    @property
    def may_restart(self) -> bool:
        """Whether it ran for long enough to be worth another try, and has not had too many."""
        now = time.monotonic()
        recent = [one for one in self.restarts if now - one < _WITHIN_S]
        return now - self.started_s >= _STEADY_S and len(recent) < _MAX_RESTARTS

    def log(self) -> str:
        """Return what it has written since it was started, the end of it."""
        return end_of_log(self.service.log, self.log_start)

    def kept(self) -> KeptProcess:
        """Return what is written down of it."""
        found = identify(self.process.pid)
        return KeptProcess(
            name=self.service.name, pid=self.process.pid, start_ticks=found.start_ticks
        )


def start(service: Service) -> Served:
    """Start a server; to be called by the thread that lives as long as it shall.

    Args:
        service: What to start.

    Returns:
        The server, which need not answer yet.

    Raises:
        OSError: Its log cannot be written, or there are too many processes.
    """
    keeper = [*("-m", "tasks.services.keeper"), "--parent", str(os.getpid())]
    keeper += ["--grace-s", str(_GRACE_S), "--patience-s", str(PATIENCE_S)]
    keeper += [word for part in service.first for word in ("--first", part)]
    keeper += ["--notes", str(service.notes)] if service.notes else []
    service.log.parent.mkdir(parents=True, exist_ok=True)
    with service.log.open("ab") as log:
        size = log.tell()
        process = subprocess.Popen(
            [sys.executable, *keeper, "--", *service.command],
            cwd=service.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**service.environment, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C is for us alone
        )
    return Served(service, process, size, time.monotonic())


def restart(served: Served) -> Served:
    """Start a server again that has ended.

    Args:
        served: The server.

    Returns:
        Its successor, which knows how often it was started.

    Raises:
        OSError: As for ``start``.
    """
    successor = start(served.service)
    successor.restarts = [*served.restarts, successor.started_s]
    return successor


def ask_to_stop(served: Served, *, cancels: bool) -> None:
    """Ask a server to stop; a second time, it is not given any more time.

    Args:
        served: The server.
        cancels: Whether the flow runs of a worker are to be cancelled; else they are handed over.
    """
    with contextlib.suppress(ProcessLookupError):
        served.process.send_signal(signal.SIGINT if cancels else signal.SIGTERM)


def end_rest(served: Served) -> None:
    """End what a keeper has left that was itself killed, so that its port is free again.

    Args:
        served: The server, whose keeper has ended.
    """
    if (served.process.returncode or 0) < 0:
        _end_session(served.process.pid, served.service.first)


def await_leftovers(left: Sequence[KeptProcess], stops: Sized) -> None:
    """Wait for the keepers of an ``up`` that is no more; what lasts too long is killed.

    They are stopping in good order since it has gone; a signal now would end their patience.

    Args:
        left: The keepers.
        stops: Requests to stop so far; one more ends our patience.
    """
    processes = [Process(one.pid, one.start_ticks) for one in left]
    deadline = time.monotonic() + PATIENCE_S + 2 * _GRACE_S
    while any(map(is_running, processes)) and time.monotonic() < deadline and not stops:
        time.sleep(_POLL_S)
    for process in filter(is_running, processes):
        _end_session(process.pid)


def _end_session(session: int, gently: Sequence[str] = ()) -> None:
    """Kill the processes of a session; those with some words in their command may end in order."""
    for pid in [one for one in all_processes() if session_of(one) == session]:
        is_gentle = any(part in command_of(pid) for part in gently)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM if is_gentle else signal.SIGKILL)
