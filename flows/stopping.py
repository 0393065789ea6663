"""Stops a study, wherever it runs, and says what has stopped and what has not."""

import contextlib
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from flows.jobs import jobs_of
from flows.orchestration import PATIENCE_S
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED, read_record
from tasks.services.notes import forget, notes_directory, read_notes
from tasks.slurm.entries import Entry
from tasks.slurm.explaining import ledgers
from tasks.slurm.launcher import id_of
from tasks.slurm.liveness import is_alive
from tasks.slurm.slurm_launcher import SlurmLauncher
from tasks.steps.flow_record import read_flow_record
from tasks.steps.stopped import Stopped
from tasks.tracking.nightly_record import read_night
from tasks.tracking.study_directory import StudyDirectory

_STOPPED_WITHIN_S = 30.0
_POLL_S = 0.2


def stop(directory: StudyDirectory, runs: Sequence[RunDirectory] | None) -> Stopped:
    """Stop a study, or some of its jobs.

    The wish is written down first, so that it holds also if Slurm does not answer now: whoever
    looks after the user's jobs next carries it out.

    Args:
        directory: The study, absolute.
        runs: The jobs to stop, workers of a server along with it; None for the whole study.

    Returns:
        What has stopped in time, and what has not.

    Raises:
        LedgerError: A ledger cannot be used.
        SlurmError: Slurm is not there, or does not answer.
        DamagedFileError: ``study.json`` is cut off, or of another version.
        OSError: A file of the study cannot be read.
    """
    chosen = None if runs is None else {run.path for run in runs}
    going = [entry for entry in _going(directory) if _is_chosen(entry, chosen)]
    for ledger in ledgers():
        ledger.wish_cancel([entry.run_dir for entry in going], time.time())
    was_handed_over = runs is None and _withdraw(directory.path)
    whole = RunDirectory(directory.path)
    was_running = runs is None and is_alive(whole)
    goes_on = _end_flow(whole, has_jobs=bool(going)) if was_running else ""
    config, num_orphans = directory.read_study().launcher, 0
    if isinstance(config, SlurmLauncherConfig):
        if going:
            _wait_for(SlurmLauncher(config, directory.path), going)
    elif runs is None and not goes_on:
        num_orphans, goes_on = _end_orphans(directory)
    left = {entry.run_dir for entry in _going(directory)} & {entry.run_dir for entry in going}
    return Stopped(
        num_jobs=len(going) - len(left),
        num_left=len(left),
        num_orphans=num_orphans,
        has_ended_flow=was_running and not is_alive(whole),
        was_handed_over=was_handed_over,
        goes_on=goes_on,
    )


def _withdraw(study_dir: Path) -> bool:
    """Let no later ``up`` go on with a study; say whether one would have."""
    ids = set()
    with contextlib.suppress(OSError, DamagedFileError):
        ids |= {record.flow_run_id for record in [read_flow_record(study_dir)] if record}
        ids |= {night.flow_run_id for night in [read_night(study_dir)] if night}
    notes_dir = notes_directory(study_dir.parent)
    left = ids & {key for key, note in read_notes(notes_dir).items() if note.left_at}
    for flow_run_id in left:
        forget(notes_dir, flow_run_id)
    return bool(left)


def _going(directory: StudyDirectory) -> list[Entry]:
    return [one for one in jobs_of(directory.path) if not one.state.job_state.is_final]


def _is_chosen(entry: Entry, chosen: set[Path] | None) -> bool:
    if chosen is None:
        return True
    return any(Path(entry.run_dir).is_relative_to(run) for run in chosen)


def _wait_for(launcher: SlurmLauncher, going: Sequence[Entry]) -> None:
    """Wait for jobs of Slurm that are to stop; the launcher leads, if nobody else does."""
    try:
        deadline = time.monotonic() + _STOPPED_WITHIN_S
        for entry in going:
            left_s = max(0.0, deadline - time.monotonic())
            launcher.wait(id_of(Path(entry.run_dir)), left_s)
    finally:
        launcher.detach()


def _end_flow(whole: RunDirectory, *, has_jobs: bool) -> str:
    """Ask the process that runs a study to stop, if it is on this host; say who runs it still.

    One on another host is not reached, but ends with the jobs of Slurm, if it has any.
    """
    host, _, pid = whole.lock.read_text().strip().partition(" ")
    is_asked = _ask(host, pid, signal.SIGINT)
    patience_s = PATIENCE_S if is_asked or has_jobs else 0.0
    if _is_true_within(patience_s, lambda: not is_alive(whole)):
        return ""
    if is_asked:
        return (
            f"its flow, process {pid}, was asked to stop, and has not within {patience_s:.0f} s; "
            f"see how it stands with: watershed show {shlex.quote(str(whole.path))}"
        )
    return (
        f"it is running still, by {_who(host, pid)}, which cannot be stopped from here; cancel its "
        f"flow run in Prefect, or run {_where(host)}: watershed cancel "
        f"{shlex.quote(str(whole.path))}"
    )


def _end_orphans(directory: StudyDirectory) -> tuple[int, str]:
    """Stop jobs of this machine whose flow is gone; count them, and say who goes on.

    Each has a session of its own, and outlives a flow that was killed. It stops at a checkpoint.
    """
    runs = [run for run in directory.points() if is_alive(run)]
    holders = {run: _holder(run) for run in runs}
    for host, pid in holders.values():
        _ask(host, pid, signal.SIGTERM)

    def left() -> list[RunDirectory]:
        return [run for run in runs if is_alive(run)]

    if not runs or _is_true_within(_STOPPED_WITHIN_S, lambda: not left()):
        return len(runs), ""
    told = ", ".join(_who(*holders[run]) for run in left())
    return len(runs) - len(left()), (
        f"no flow runs it, but jobs that one has left go on: {told}; run where they are: watershed "
        f"cancel {directory.argument}"
    )


def _holder(run: RunDirectory) -> tuple[str, str]:
    """Return host and process of the newest attempt of a run."""
    attempts = run.attempts()
    started = read_record(attempts[-1] / STARTED) if attempts else {}
    return str(started.get("host", "")), str(started.get("pid", ""))


def _ask(host: str, pid: str, signum: signal.Signals) -> bool:
    """Send a signal to a process; return whether it is the user's and on this host."""
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), signum)
    except ProcessLookupError:  # it has ended just now
        return True
    except PermissionError:
        return False
    return True


def _is_true_within(patience_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _who(host: str, pid: str) -> str:
    return f"process {pid} on {host}" if pid else "a process that has not told its name"


def _where(host: str) -> str:
    """Where, or as whom, a process can be asked to stop that could not from here."""
    return "as its user" if host == socket.gethostname() else f"on {host}" if host else "there"
