"""Where a job of Slurm is, in one line."""

from pathlib import Path

import pytest

from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.describing import description
from tasks.slurm.entries import Entry, LedgerState


def _entry(run_dir: Path, **changes: object) -> Entry:
    values: dict[str, object] = {
        "run_dir": str(run_dir),
        "study_dir": str(run_dir.parent.parent),
        "state": LedgerState.SUBMITTED,
        "submission": 1,
        "first_submission": 1,
        "name": "ws-a-1",
        "mode": "single",
        "task": None,
        "slurm_job": "4711",
        "slurm_state": "PENDING",
        "reason": "Priority",
        "restarts": 0,
        "nodes": "",
        "failure": "",
        "message": "",
        "exclude": "",
        "wish_cancel": False,
        "needs_costs": False,
        "not_before_s": 0.0,
        "submitting_s": 0.0,
        "changed_s": 0.0,
    }
    return Entry(**(values | changes))  # type: ignore[arg-type]  # one of each field


def _begin(run_dir: Path, *, submission: int = 1) -> None:
    attempt = RunDirectory(run_dir).attempt(1)
    attempt.mkdir(parents=True)
    started = Started(
        pid=1, host="h", timestamp_ms=1, submission=submission, partition="gpu", node="n7"
    )
    write_json(attempt / "started.json", started.model_dump())


@pytest.mark.parametrize(
    ("changes", "partition", "told"),
    [
        ({}, "batch", "job 4711 on batch: PENDING (Priority)"),
        ({"reason": "None"}, "batch", "job 4711 on batch: PENDING"),
        ({"slurm_job": "12_3"}, "", "job 12_3 on the default partition: PENDING (Priority)"),
        (
            {"state": LedgerState.RUNNING, "slurm_state": "RUNNING", "nodes": "n[1-2]"},
            "batch",
            "job 4711 on batch: RUNNING on n[1-2]",
        ),
        (
            {"state": LedgerState.FAILED, "slurm_state": "OUT_OF_MEMORY"},
            "batch",
            "job 4711 on batch: OUT_OF_MEMORY",
        ),
        ({"state": LedgerState.PLANNED, "submission": 0}, "batch", "waits to be submitted"),
        (
            {"state": LedgerState.PLANNED, "message": "a node was lost"},
            "batch",
            "waits to be submitted again: a node was lost",
        ),
    ],
)
def test_a_job_is_told_as_squeue_shows_it(
    tmp_path: Path, changes: dict[str, object], partition: str, told: str
) -> None:
    """Id, partition, state and reason while it waits; the nodes once it runs."""
    assert description(_entry(tmp_path, **changes), partition) == told


def test_the_node_is_believed_before_slurm_tells_of_it(tmp_path: Path) -> None:
    """A start that the node has written down is told with its partition, and not as PENDING."""
    _begin(tmp_path)

    told = description(_entry(tmp_path, state=LedgerState.RUNNING), "a,b")

    assert told == "job 4711 on gpu: RUNNING on n7"


def test_the_start_of_an_earlier_submission_says_nothing(tmp_path: Path) -> None:
    """A job that was submitted again is not said to be where it was before."""
    _begin(tmp_path, submission=1)
    entry = _entry(tmp_path, submission=2, state=LedgerState.RUNNING)

    assert description(entry, "batch") == "job 4711 on batch: RUNNING"
