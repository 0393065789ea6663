"""Notes in the data directory: which flow runs are at work, and which ones are to go on later.

One small file a flow run, ``flow-runs/ID.json``, so that ``up`` and the keeper of its worker write
beside each other: ``up`` notes what is at work, its keeper what it hands over before it ends it.
"""

import contextlib
import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.runtime.atomic_files import write_json

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Variable of the process that runs a flow: its flow run."""
_DIRECTORY = "flow-runs"


@dataclass(frozen=True)
class Note:
    """What is known of one flow run.

    Attributes:
        left_at: When it was ended with its worker, to go on later, Unix time; 0 if it was not.
        continued: When it was set to go on before, Unix times.
    """

    left_at: float = 0.0
    continued: tuple[float, ...] = ()


def notes_directory(data: Path) -> Path:
    """Return where the notes of a data directory are."""
    return data / _DIRECTORY


def read_notes(directory: Path) -> dict[str, Note]:
    """Read all notes.

    Args:
        directory: From ``notes_directory``; it need not exist.

    Returns:
        Prefect's id of a flow run -> its note; one that cannot be read is an empty one.
    """
    return {path.stem: _read(path) for path in sorted(directory.glob("*.json"))}


def write_note(directory: Path, flow_run_id: str, note: Note) -> None:
    """Write a note; where there is no place for it, nothing: that is told elsewhere.

    Args:
        directory: From ``notes_directory``; made if it is absent.
        flow_run_id: Prefect's id of the flow run.
        note: The note.
    """
    with contextlib.suppress(OSError):
        directory.mkdir(exist_ok=True)
        write_json(directory / f"{flow_run_id}.json", asdict(note))


def leave(directory: Path, flow_run_id: str) -> None:
    """Note that a flow run is to go on later.

    Args:
        directory: As for ``write_note``.
        flow_run_id: As for ``write_note``.
    """
    before = _read(directory / f"{flow_run_id}.json")
    write_note(directory, flow_run_id, replace(before, left_at=time.time()))


def forget(directory: Path, flow_run_id: str) -> None:
    """Remove a note.

    Args:
        directory: From ``notes_directory``.
        flow_run_id: Prefect's id of the flow run.
    """
    with contextlib.suppress(OSError):
        (directory / f"{flow_run_id}.json").unlink()


def note_at_work(directory: Path, at_work: Collection[str]) -> None:
    """Note the flow runs that are at work, and forget those that are not and are not left, either.

    Args:
        directory: As for ``write_note``.
        at_work: Prefect's ids of them.
    """
    known = read_notes(directory)
    for flow_run_id in at_work:
        if flow_run_id not in known:
            write_note(directory, flow_run_id, Note())
    for flow_run_id in known.keys() - set(at_work):
        if not _read(directory / f"{flow_run_id}.json").left_at:  # read once more: it may be now
            forget(directory, flow_run_id)


def _read(path: Path) -> Note:
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        found = json.loads(path.read_bytes())
        return Note(float(found["left_at"]), tuple(map(float, found["continued"])))
    return Note()
