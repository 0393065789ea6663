"""What stands in the ledger: jobs, and the history of their submissions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from tasks.slurm.launcher import JobState


class LedgerState(StrEnum):
    """Where a job is in its life."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def job_state(self) -> JobState:
        """What it is for those who wait for the job."""
        if self in {LedgerState.PLANNED, LedgerState.SUBMITTING, LedgerState.SUBMITTED}:
            return JobState.WAITING
        return JobState(self.value)


@dataclass(frozen=True)
class Entry:
    """A job, as it stands in the ledger.

    Attributes:
        run_dir: Its run directory, which names it.
        study_dir: The study that it belongs to.
        state: Where it is.
        submission: Number of its newest submission; 0 if it has had none.
        first_submission: Number of the first one since the user has asked for the job; earlier
            failures count for no limit.
        name: Slurm's name of the newest submission; empty if it has had none.
        mode: Of the batch that it was submitted with, see ``Batch``.
        task: Which task of an array it is; None in other batches.
        slurm_job: Slurm's id, ``12`` or ``12_3``; empty before it is known.
        slurm_state: Slurm's last word on it.
        reason: Slurm's word for why it waits.
        restarts: How often Slurm has requeued the newest submission.
        nodes: Where it runs.
        failure: Failure class, if it has failed.
        message: For people: how it stands, or why it ended.
        exclude: Nodes to leave out in the next submission, beside the user's own; with commas.
        wish_cancel: Whether it is to stop.
        needs_costs: Whether its costs have not been written yet.
        not_before_s: Unix time before which it is not submitted.
        submitting_s: Unix time of the newest submission.
        changed_s: Unix time of the last change.
    """

    run_dir: str
    study_dir: str
    state: LedgerState
    submission: int
    first_submission: int
    name: str
    mode: str
    task: int | None
    slurm_job: str
    slurm_state: str
    reason: str
    restarts: int
    nodes: str
    failure: str
    message: str
    exclude: str
    wish_cancel: bool
    needs_costs: bool
    not_before_s: float
    submitting_s: float
    changed_s: float


@dataclass(frozen=True)
class Submission:
    """One submission of a job, for its history.

    Attributes:
        submission: Its number, from 1.
        name: Slurm's name.
        slurm_job: Slurm's id; empty if it never had one.
        submitting_s: Unix time.
        ended_s: Unix time of when its end was noticed; None before.
        failure: Failure class; empty if it finished, or is not over.
        node: Node that is to blame.
        moved: Whether its newest checkpoint was newer than at its start.
        words: Why it ended and what followed, for people.
    """

    submission: int
    name: str
    slurm_job: str
    submitting_s: float
    ended_s: float | None
    failure: str
    node: str
    moved: bool
    words: str


@dataclass(frozen=True)
class Loss:
    """A node that was lost under a submission which Slurm itself has queued again.

    Attributes:
        restarts: How often Slurm had requeued the submission by then, this time included.
        node: The node, as Slurm writes it; empty if it is not known.
        moved: Whether its newest checkpoint was newer than at the start on that node.
        words: What was lost and what follows, for people.
    """

    restarts: int
    node: str
    moved: bool
    words: str


@dataclass(frozen=True)
class Trouble:
    """That Slurm does not answer.

    Attributes:
        words: What its command said instead, when it began.
        since_s: Unix time of that.
        asked_s: Unix time of the newest call that was not answered.
    """

    words: str
    since_s: float
    asked_s: float


JOB_COLUMNS = ", ".join(field.name for field in fields(Entry))
SUBMISSION_COLUMNS = ", ".join(field.name for field in fields(Submission))
_NAMES = [field.name for field in fields(Entry)]
_STATE = _NAMES.index("state")
_FLAGS = [_NAMES.index(name) for name in ("wish_cancel", "needs_costs")]


def entry_of(row: Sequence[Any]) -> Entry:
    """Make a job of a row of ``JOB_COLUMNS``."""
    values = list(row)
    values[_STATE] = LedgerState(values[_STATE])
    for flag in _FLAGS:
        values[flag] = bool(values[flag])
    return Entry(*values)


def submission_of(row: Sequence[Any]) -> Submission:
    """Make a submission of a row of ``SUBMISSION_COLUMNS``."""
    values = dict(zip(SUBMISSION_COLUMNS.split(", "), row, strict=True))
    values["moved"] = bool(values["moved"])
    return Submission(**values)
