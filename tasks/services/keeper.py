"""Keeps one server: ``python -m tasks.services.keeper --parent PID [...] -- COMMAND ...``.

It stands between ``watershed up`` and a server, so that nothing is left behind however either
ends: killed with kill -9, ``up`` takes its keepers with it (PR_SET_PDEATHSIG), and a keeper stops
all that its server has started before it ends itself.

The worker's flow runs are ended first, which the worker's own SIGTERM would not let them do in
order. A SIGINT to us cancels them, as Ctrl-C does: they stop their jobs at a checkpoint and say so
in Prefect. Whatever else ends us hands them over: they get SIGTERM, upon which jobs of Slurm go
on, and it is noted which ones they were.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.services.notes import FLOW_RUN, leave
from tasks.services.processes import (
    all_processes,
    command_of,
    descendants,
    session_of,
    variable_of,
)

_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_SIGNALS = (*_STOP_SIGNALS, signal.SIGCHLD)
_LOOK_S = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_EXIT_NOT_FOUND = 127
_MAX_STOPS = 2
_DYING_S = 0.1
"""After the first thread of a process that is killed, its last one has ended by then."""


def main(argv: list[str] | None = None) -> int:
    """Run a server until it ends, or is to end.

    Args:
        argv: The arguments; default: the process's.

    Returns:
        The server's exit code, 128 + signal if it was killed; 127 if it cannot be started.
    """
    parser = argparse.ArgumentParser(prog="tasks.services.keeper")
    parser.add_argument("--parent", type=int, required=True, help="process to end with")
    parser.add_argument("--grace-s", type=float, default=10.0, help="to stop in before SIGKILL")
    parser.add_argument(
        "--first", default=[], action="append", help="part of commands to end first"
    )
    parser.add_argument("--notes", type=Path, help="where it is noted which of them are to go on")
    parser.add_argument("--patience-s", type=float, default=75.0, help="for those")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != arguments.parent:  # it was too late for that
        return 128 + signal.SIGTERM
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent stays among our descendants
    signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)
    keeper = _Keeper(arguments.command, arguments.parent)
    while keeper.exit_code is None and not keeper.num_stops:
        keeper.wait()
    if arguments.first:
        keeper.end_first(arguments.first, arguments.notes, arguments.patience_s)
    elif keeper.is_orphaned():  # the parent was killed, and could not keep the order
        keeper.wait_for_workers(arguments.parent, arguments.patience_s)
    keeper.terminate(arguments.grace_s)
    keeper.kill_rest(arguments.first)
    return keeper.exit_code if keeper.exit_code is not None else 128 + signal.SIGKILL


class _Keeper:
    """A server and all that it has started.

    Args:
        command: Starts the server.
        parent: Process to end with.

    Attributes:
        exit_code: Of the server; None while it runs.
        num_stops: How often we were asked to stop.
        is_cancelled: Whether that was a wish to cancel.
    """

    def __init__(self, command: Sequence[str], parent: int) -> None:
        self._parent = parent
        self.exit_code: int | None = None
        self.num_stops = 0
        self.is_cancelled = False
        self._pid = 0
        try:
            # Kept, as a Popen that is thrown away reaps its child, and we would never know.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=_prepare_child,  # noqa: PLW1509  there is one thread
            )
        except OSError as error:
            sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
            self.exit_code = _EXIT_NOT_FOUND
            return
        self._pid = self._process.pid

    def wait(self) -> None:
        """Wait a moment for a signal, and take note of it, and of processes that have ended."""
        received = signal.sigtimedwait(_SIGNALS, _LOOK_S)
        while received is not None:
            self.is_cancelled |= received.si_signo == signal.SIGINT
            self.num_stops += received.si_signo in _STOP_SIGNALS
            received = signal.sigtimedwait(_SIGNALS, 0)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self.exit_code = code if code >= 0 else 128 - code

    def is_orphaned(self) -> bool:
        """Say whether the parent has ended.

        Its death may be told once for each of its threads: while one is left, that one is our
        parent (measured: 6 signals for 3 keepers, of a parent of 5 threads).
        """
        time.sleep(_DYING_S)
        return os.getppid() != self._parent

    def is_hurried(self) -> bool:
        """Say whether somebody does not want to wait: a parent that lives has asked twice."""
        return self.num_stops >= _MAX_STOPS and not self.is_orphaned()

    def end_first(self, parts: Sequence[str], notes: Path | None, patience_s: float) -> None:
        """Ask some processes to end, once each, and wait for them; a second stop ends the patience.

        Args:
            parts: Parts of their commands.
            notes: Where it is noted which of them are to go on later; None for nowhere.
            patience_s: How long they may take.
        """
        cancels = self.is_cancelled
        asked: set[int] = set()
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self.is_hurried():
            ours = descendants(os.getpid())
            going = [pid for pid in ours if pid != self._pid and _is_named(pid, parts)]
            for pid in going:
                if pid not in asked:
                    if notes and not cancels and (flow_run_id := variable_of(pid, FLOW_RUN)):
                        leave(notes, flow_run_id)
                    _send(pid, signal.SIGINT if cancels else signal.SIGTERM)
                    asked.add(pid)
            if not going:
                return
            self.wait()

    def wait_for_workers(self, parent: int, patience_s: float) -> None:
        """Let flow runs tell the servers how they end, before those end.

        Args:
            parent: Process that had started us, and the keeper of the worker.
            patience_s: How long that may take.
        """
        deadline = time.monotonic() + patience_s
        ours = f"{__spec__.name} --parent {parent} "
        while time.monotonic() < deadline and not self.is_hurried():
            commands = [command_of(pid) for pid in all_processes()]
            if not any(ours in command and " --first " in command for command in commands):
                return
            self.wait()

    def terminate(self, grace_s: float) -> None:
        """Ask the server to stop.

        Args:
            grace_s: How long it may take.
        """
        if self.exit_code is not None:
            return
        _send(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self.exit_code is None and time.monotonic() < deadline:
            self.wait()

    def kill_rest(self, parts: Sequence[str]) -> None:
        """Kill what is left of our session, and what was to be ended first.

        Jobs have sessions of their own; they survive a flow that could not stop them in time, and
        are adopted by its successor.

        Args:
            parts: Parts of the commands of what was to be ended first; empty for none.
        """
        ours = os.getsid(0)
        left = [
            pid
            for pid in descendants(os.getpid())
            if session_of(pid) == ours or _is_named(pid, parts)
        ]
        for pid in left:
            _send(pid, signal.SIGKILL)
        if left:
            self.wait()


def _is_named(pid: int, parts: Sequence[str]) -> bool:
    command = command_of(pid)
    return any(part in command for part in parts)


def _send(pid: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


def _prctl(option: int, value: int) -> None:
    """Call prctl(2), where there is one."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)


def _prepare_child() -> None:
    """Give the server its signals back, which a shell's `&` takes away; let it die with us."""
    for signum in _STOP_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
