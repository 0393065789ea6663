"""Flow runs that end with an ``up`` and go on with the next one: Prefect is told of both.

A stop that nobody meant as a wish to cancel (SIGTERM: the machine shuts down, a service is
restarted, the time of a Slurm job is over) ends the processes of the flows, but not the studies:
jobs of Slurm go on, and the flow run is set to run again, as *Retry* does, when somebody serves
its pool with the same data. The flow then takes finished jobs as finished and follows the others.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.services.notes import FLOW_RUN, Note, read_notes, write_note
from tasks.services.plan import FLOW_PROCESSES
from tasks.services.pools import ACTIVE, end_orphans
from tasks.services.processes import command_of, descendants, variable_of
from tasks.services.web import Server

_MOST = 200
_MOST_CONTINUED, _WITHIN_S = 5, 3600.0
"""What is handed over again and again makes no progress; a person should look."""
_STOPPED = {"CANCELLING", "CANCELLED", "PAUSED"}
_TOLD = (
    "handed over: `watershed up` has ended, and the next one with the same data goes on with this "
    "flow run; its jobs of Slurm run meanwhile"
)


def flow_runs_of(keeper: int) -> set[str]:
    """Return the flow runs whose processes a worker has started.

    Args:
        keeper: Process that keeps the worker.

    Returns:
        Prefect's ids of them.
    """
    ids = {
        variable_of(pid, FLOW_RUN)
        for pid in descendants(keeper)
        if any(part in command_of(pid) for part in FLOW_PROCESSES)
    }
    return ids - {""}


def tell_left(server: Server, pool: str, notes_dir: Path) -> list[str]:
    """Tell Prefect, and return, what the next ``up`` goes on with; to be called at the end of one.

    Args:
        server: The Prefect server.
        pool: The pool that was served.
        notes_dir: From ``notes.notes_directory``.

    Returns:
        Names of the flow runs.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    left = _left(notes_dir)
    names = []
    for flow_run_id, run in _read_runs(server, left).items():
        if run["work_pool_name"] != pool or not _was_ended(server, run):
            continue
        state = {"type": "CRASHED", "name": "Crashed", "message": _TOLD}
        server.ask(f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
        names.append(str(run["name"]))
    return names


def continue_left(server: Server, pool: str, notes_dir: Path) -> list[str]:
    """Let flow runs go on that were handed over, by an earlier ``up`` or by a worker that died.

    What a person has done with them since counts: one that was cancelled does not come back.

    Args:
        server: The Prefect server.
        pool: The pool that is served now; flow runs of others wait until theirs is.
        notes_dir: From ``notes.notes_directory``.

    Returns:
        A line for each flow run of which there is something to tell.

    Raises:
        ServicesError: Prefect does not answer, or refuses.
    """
    left = _left(notes_dir)
    if not left:
        return []
    found = _read_runs(server, left)
    ending = [key for key, run in found.items() if _still_ends(run, left[key])]
    if end_orphans(server, pool, ending):  # killed, when their time to end was over
        found = _read_runs(server, left)
    told = []
    for flow_run_id, note in left.items():
        run = found.get(flow_run_id)
        if run is None:
            told.append(
                f"flow run {flow_run_id}: {server.url} does not know it; it is not continued"
            )
            write_note(notes_dir, flow_run_id, Note())
        elif run["work_pool_name"] == pool and not _still_ends(run, note):
            new, line = _continued(server, run, note, time.time())
            write_note(notes_dir, flow_run_id, new)
            told += [line] if line else []
    return told


def _left(notes_dir: Path) -> dict[str, Note]:
    left = {key: note for key, note in read_notes(notes_dir).items() if note.left_at}
    return dict(list(left.items())[:_MOST])


def _read_runs(server: Server, ids: Mapping[str, Note]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    body = {"flow_runs": {"id": {"any_": list(ids)}}, "limit": _MOST}
    return {str(run["id"]): run for run in server.ask("/flow_runs/filter", body) or ()}


def _still_ends(run: Mapping[str, Any], note: Note) -> bool:
    """Whether the process that was asked to end is still at it; somebody may have retried it."""
    began = datetime.fromisoformat(run["state"]["timestamp"])
    return run["state_type"] in ACTIVE and began.timestamp() < note.left_at


def _continued(
    server: Server, run: Mapping[str, Any], note: Note, now_s: float
) -> tuple[Note, str]:
    """Let one flow run go on, if it is to; return its new note, and what there is to tell."""
    recent = tuple(one for one in note.continued if now_s - one < _WITHIN_S)
    kept = replace(note, left_at=0.0, continued=recent)
    name = f"flow run {run['name']}"
    if not _was_ended(server, run):
        return kept, ""
    if len(recent) >= _MOST_CONTINUED:
        return kept, (
            f"{name}: handed over {len(recent) + 1} times within an hour, so it is not continued "
            "once more; Retry it when you know why"
        )
    message = "goes on where the `watershed up` before this one has left it"
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message}
    answer = server.ask(f"/flow_runs/{run['id']}/set_state", {"state": state}) or {}
    if answer.get("status") != "ACCEPT":
        reason = (answer.get("details") or {}).get("reason", answer)
        return kept, f"{name}: cannot be continued: {reason}"
    return replace(kept, continued=(*recent, now_s)), f"{name} {message}"


def _was_ended(server: Server, run: Mapping[str, Any]) -> bool:
    """Whether a flow run has crashed with its process, and nobody had asked it to stop before."""
    if run["state_type"] != "CRASHED":
        return False
    states = server.ask(f"/flow_run_states/?flow_run_id={run['id']}") or []
    return not _STOPPED & set(_since_it_ran(states))


def _since_it_ran(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Types of the states since a flow run ran last, oldest first."""
    ordered = sorted(states, key=lambda one: datetime.fromisoformat(one["timestamp"]))
    kinds = [str(one["type"]) for one in ordered]
    if "RUNNING" not in kinds:
        return kinds
    return kinds[len(kinds) - kinds[::-1].index("RUNNING") :]
