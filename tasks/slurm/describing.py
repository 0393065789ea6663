"""Where a job of Slurm is, in one line, as people look for it with squeue."""

import contextlib
from datetime import datetime
from pathlib import Path

from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED
from tasks.slurm.entries import Entry, LedgerState, Trouble
from tasks.slurm.evidence import read_whole
from tasks.slurm.states import SlurmState

_NO_STATE = {"", SlurmState.UNKNOWN.value}


def description(entry: Entry, partition: str) -> str:
    """Say where a job is.

    Args:
        entry: The job, as it stands in the ledger.
        partition: Where it was sent; empty for the default one.

    Returns:
        ``job 4711 on batch: PENDING (Priority)``, ``job 4711 on batch: RUNNING on n[1-2]``,
        ``job 12_3 on batch: COMPLETED``, or what happens before there is a job.
    """
    if entry.state is LedgerState.PLANNED:
        again = " again" * bool(entry.submission)
        return f"waits to be submitted{again}" + (f": {entry.message}" if entry.message else "")
    if entry.state is LedgerState.SUBMITTING:
        return "is being submitted"
    if not entry.slurm_job:
        return entry.message or entry.state.value
    started = _started(entry) if entry.state is not LedgerState.SUBMITTED else None
    where = (started.partition if started else "") or partition or "the default partition"
    job = f"job {entry.slurm_job} on {where}"
    state = entry.slurm_state if entry.slurm_state not in _NO_STATE else ""
    if entry.state is LedgerState.SUBMITTED:
        reason = f" ({entry.reason})" if entry.reason not in {"", "None"} else ""
        return f"{job}: {state or SlurmState.PENDING.value}{reason}"
    if entry.state is LedgerState.RUNNING:
        # The node tells of its start before Slurm does.
        is_told = bool(entry.nodes) and state not in {"", SlurmState.PENDING.value}
        nodes = entry.nodes if is_told else (started.node if started else "")
        shown = state if is_told else SlurmState.RUNNING.value
        return f"{job}: {shown}" + (f" on {nodes}" if nodes else "")
    return f"{job}: {state or entry.state.value.upper()}"


def trouble_words(trouble: Trouble) -> str:
    """Say that Slurm does not answer, since when, and what it said.

    Args:
        trouble: As it stands in the ledger.
    """
    since = datetime.fromtimestamp(trouble.since_s).astimezone()
    return f"Slurm has not answered since {since:%Y-%m-%d %H:%M:%S %Z}: {trouble.words}"


def _started(entry: Entry) -> Started | None:
    """Return what the newest attempt has left about its start, if it is of this submission."""
    with contextlib.suppress(OSError):
        attempts = RunDirectory(Path(entry.run_dir)).attempts()
        started = read_whole(Started, attempts[-1] / STARTED) if attempts else None
        if started is not None and started.submission == entry.submission:
            return started
    return None
