"""Starts the process that runs a study's flow, watches it, and stops it.

All that is known of the study comes from its directory, so the display can die without harm, and
the flow's process writes to a log file alone.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from flows.environment import flow_environment
from tasks.steps.flow_record import flow_record_path
from tasks.steps.progress import (
    PointProgress,
    Snapshot,
    StudyProgress,
    remaining_s,
    share_done,
)
from tasks.tracking.study_directory import StudyDirectory

LOG_NAME = "flow.log"
PATIENCE_S = 75.0
"""How long a study may take to stop before it is killed; its jobs are stopped before by then."""

_POLL_S = 0.2
_DATED_OR_INDENTED = re.compile(r"\s|\d\d:\d\d:|\d{4}/")
"""Lines of ordinary logging, and the middle of a traceback."""


def start_flow(
    directory: StudyDirectory, num_parallel: int | None, points: Sequence[int] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a study's flow in a session of its own, which survives this process.

    Args:
        directory: The study's directory.
        num_parallel: Most local jobs at a time; None for the default.
        points: Numbers of the points to run; None for all that have not finished.

    Returns:
        The process.

    Raises:
        OSError: It cannot be started.
    """
    command = [sys.executable, "-m", "flows.run_study", str(directory.path.resolve())]
    command += ["--parallel", str(num_parallel)] if num_parallel else []
    command += ["--points", *map(str, points)] if points is not None else []
    environment = flow_environment(directory.path.parent, os.environ)
    with (directory.path / LOG_NAME).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment | {"PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )


@contextmanager
def started_flow(
    directory: StudyDirectory, num_parallel: int | None, points: Sequence[int] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a study's flow, see ``start_flow``, and leave nothing of it behind.

    Args:
        directory: As for ``start_flow``.
        num_parallel: As for ``start_flow``.
        points: As for ``start_flow``.

    Yields:
        The process.

    Raises:
        OSError: It cannot be started.
    """
    process = start_flow(directory, num_parallel, points)
    try:
        yield process
    finally:
        # Not the jobs, which have sessions of their own: Prefect's server, if the flow was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def snapshots(
    directory: StudyDirectory, process: "subprocess.Popen[bytes]", stops: list[signal.Signals]
) -> Iterator[Snapshot]:
    """Watch a flow until its process ends, and pass requests to stop on.

    Args:
        directory: The study's directory.
        process: The process that runs the flow.
        stops: Requests to stop so far; another one may be appended at any time. The first stops
            the jobs, which can be continued; the second kills the flow.

    Yields:
        The study as it stands, several times a second; the last after the end.

    Raises:
        OSError: A file of the study cannot be read.
    """
    progress = StudyProgress(directory)
    began, began_at = time.monotonic(), time.time()
    working_since: float | None = None
    done_before = share_done(progress.read())
    asked_at: float | None = None
    while True:
        has_ended = process.poll() is not None
        points = progress.read()
        now = time.monotonic()
        if stops and asked_at is None:
            asked_at = now
            process.send_signal(signal.SIGINT)
        if asked_at is not None and (len(stops) > 1 or now - asked_at > PATIENCE_S):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        has_begun = _written_since(directory, began_at)
        if has_begun and working_since is None:
            working_since = now
        left_s = None
        if working_since is not None and not all(point.is_over for point in points):
            left_s = remaining_s(done_before, share_done(points), now - working_since)
        phase = _phase(points, has_begun=has_begun, is_stopping=bool(stops))
        yield Snapshot(phase, points, now - began, None if stops else left_s)
        if has_ended:
            return
        time.sleep(_POLL_S)


def _phase(points: Sequence[PointProgress], *, has_begun: bool, is_stopping: bool) -> str:
    is_running = any(point.state == "running" for point in points)
    if is_stopping:
        return "stopping the jobs" if is_running else "jobs are stopped, writing the report"
    if not has_begun:
        return "starting Prefect (10 to 40 s)"
    is_over = all(point.is_over for point in points)
    return "writing the report" if is_over else "running"


def _written_since(directory: StudyDirectory, began_at: float) -> bool:
    """Whether the flow itself has begun: its record is of this start."""
    try:
        return flow_record_path(directory.path).stat().st_mtime >= began_at
    except FileNotFoundError:
        return False


def last_words(directory: StudyDirectory, exit_code: int) -> str:
    """Say why a flow has stopped by itself, as far as its log tells, and where the rest is.

    Args:
        directory: The study's directory.
        exit_code: Of the flow's process; negative for a signal.
    """
    log = directory.path / LOG_NAME
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name} (see {log})"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    told = [line for line in lines if line.strip() and not _DATED_OR_INDENTED.match(line)]
    return f"{told[-1] if told else 'it left no word'} (see {log})"


@contextmanager
def stop_requests() -> Iterator[list[signal.Signals]]:
    """Collect requests to stop (Ctrl-C, SIGTERM, a closed terminal) instead of dying of them.

    Yields:
        The requests so far; it grows.
    """
    requests: list[signal.Signals] = []

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        requests.append(signal.Signals(signum))

    signums = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.signal(signum, note) for signum in signums}
    try:
        yield requests
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
