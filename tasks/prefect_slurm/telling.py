"""What Prefect is to be told of a job, and what its wishes mean for the job: facts in, deeds out.

The ledger is the authority on jobs, Prefect's server on flow runs. The engine inside the job tells
most of what there is to tell; this is about a job that waits, and one that ended without a word.
"""

import re
from enum import StrEnum

from prefect.client.schemas.objects import StateType

from tasks.runtime.plain_text import plain
from tasks.slurm.diagnosis import Diagnosis
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.launcher import JobState
from tasks.slurm.redaction import redact
from tasks.slurm.waiting import why_waiting

HOOKS_S = 4.0
"""A flow that runs has so long to stop by itself, with its hooks, before its job is cancelled."""
REQUEUED_S = 30.0
"""A job that has waited for so long since its flow run ended was queued again, and would begin it
anew: Prefect lets it. After other ends than Completed the next attempt may go on: a flow that is
preempted may fail or crash of it."""
_MOST_LINES = 15
_LONGEST_LINE = 300

_IN_QUEUE = {LedgerState.PLANNED, LedgerState.SUBMITTING, LedgerState.SUBMITTED}
_CANCELLED = {StateType.CANCELLING, StateType.CANCELLED}
_UNDER_WAY = {StateType.PENDING, StateType.RUNNING}


class Deed(StrEnum):
    """What is to be done about one job now."""

    NOTHING = "nothing"
    CANCEL = "cancel"
    """Cancel the job: its flow run was cancelled, or has completed and would begin anew."""
    TELL_QUEUED = "tell queued"
    """Tell why it waits."""
    TELL_CRASHED = "tell crashed"
    """Tell that its job is over, and why."""
    TELL_CANCELLED = "tell cancelled"
    """Tell that its job is gone, as it was wished."""
    TAKE_AGAIN = "take again"
    """Have the flow run handed over anew: its job was ending when it was asked for again."""
    CLOSE = "close"
    """The job is over, and Prefect knows how."""


def deed(
    entry: Entry,
    state: StateType | None,
    *,
    is_newest: bool = True,
    is_asked_again: bool = False,
    ended_s: float = 0.0,
) -> Deed:
    """Say what is to be done about a job.

    Args:
        entry: The job, as it stands in the ledger.
        state: State of its flow run; None if Prefect does not have it. That ends nothing: a server
            with an empty database has not cancelled what runs.
        is_newest: Whether it is the newest job of its flow run.
        is_asked_again: Whether it was ending when its flow run was asked for again.
        ended_s: Seconds since the flow run was first seen as cancelled or completed.

    Returns:
        The deed.
    """
    if entry.state.job_state.is_final:
        if not is_newest:
            return Deed.CLOSE
        if state is None:
            return Deed.NOTHING
        if state is StateType.CANCELLING:
            return Deed.TELL_CANCELLED
        if state is StateType.PENDING and is_asked_again:
            return Deed.TAKE_AGAIN
        return Deed.TELL_CRASHED if state in _UNDER_WAY else Deed.CLOSE
    if state in _CANCELLED:
        is_stopping = state is StateType.CANCELLING and entry.state is LedgerState.RUNNING
        is_time = not is_stopping or ended_s >= HOOKS_S
        return Deed.CANCEL if is_time and not entry.wish_cancel else Deed.NOTHING
    if state is StateType.COMPLETED and entry.state in _IN_QUEUE and ended_s >= REQUEUED_S:
        return Deed.NOTHING if entry.wish_cancel else Deed.CANCEL
    if state is StateType.PENDING and (entry.state in _IN_QUEUE or is_asked_again):
        return Deed.TELL_QUEUED
    return Deed.NOTHING


def queued_name(entry: Entry, *, is_asked_again: bool = False) -> str:
    """Return the name of the state of a flow run whose job waits, with Slurm's reason in it.

    A state's message cannot be changed, only the state; Prefect takes another one of the same type
    if its name differs. It refuses it once the flow run runs.

    Args:
        entry: The job.
        is_asked_again: Whether it is on its way out, and another one follows.
    """
    if is_asked_again:
        return "Queued (its former job is ending)"
    if entry.state is not LedgerState.SUBMITTED:
        return "Queued (not submitted yet)"
    reason = entry.reason if entry.reason not in {"", "None"} else "new"
    return f"Queued ({redact(reason)[:60]})"


def queued_message(entry: Entry, *, is_asked_again: bool = False) -> str:
    """Say why a job waits, and what helps.

    Args:
        entry: The job.
        is_asked_again: Whether it is on its way out, and another one follows.
    """
    if is_asked_again:
        name = f"job {entry.slurm_job}" if entry.slurm_job else "its former job"
        return f"It is submitted again as soon as {name} is gone; Slurm is ending that one."
    if entry.state is LedgerState.SUBMITTED:
        why: Diagnosis = why_waiting(entry.reason, entry.slurm_job)
        return in_words_of_the_pool(f"{why.detail} {why.resolution}")
    before = f" Before: {entry.message}" if entry.message else ""
    return in_words_of_the_pool(f"It is submitted to Slurm as soon as Slurm takes it.{before}")


def crashed_message(entry: Entry) -> str:
    """Say how a job ended whose flow run had come to no end of its own.

    Args:
        entry: The job; over.
    """
    where = f" Its files: {entry.run_dir}"  # the path ends it, so that it can be copied
    if entry.state.job_state is JobState.FINISHED:
        name = f"Job {entry.slurm_job}" if entry.slurm_job else "The job"
        return (
            f"Ended without a word. {name} has ended with exit code 0, but its flow run had come "
            f"to no final state: it may not have reached Prefect's server.{where}"
        )
    failure = f"[{entry.failure}] " if entry.failure else ""
    words = entry.message or f"The job is {entry.state}."
    return f"{failure}{in_words_of_the_pool(words).rstrip('.')}.{where}"


_OUT_OF = (
    (r"(?:Continue from there with|Continue with): watershed resume\.?", "Retry the flow run."),
    (
        r"With launcher\.requeue: true it would go on by itself",
        "With requeue it would go on by itself",
    ),
    (r"(?:then run|[Rr]un):? watershed retry(?: --only \w+)?", "RETRY"),
    (r"watershed cancel \S+|watershed cancel", "Cancel in Prefect"),
    (r"continue with: watershed resume", "retry the flow run"),
    (
        r"or save more often \(experiment\.checkpoint_every\) and earlier "
        r"\(launcher\.signal_before_s\)",
        "or choose continue_at_time_limit, if the flow goes on from what it has saved",
    ),
    (r"\ban? launcher\.(\w+)", r"another \1"),
    (r"launcher\.(\w+)", r"\1"),
    ("the launcher's fields", "the job variables"),
)
_RETRY = re.compile(r"(^|[.:;,]\s*)?RETRY")


def in_words_of_the_pool(text: str) -> str:
    """Put an explanation that was written for a study into the words of a work pool.

    ``launcher.memory`` is the job variable ``memory`` there, and what is to be done is to retry the
    flow run.

    Args:
        text: An explanation of ``tasks.slurm``.
    """
    for pattern, words in _OUT_OF:
        text = re.sub(pattern, words, text)
    return _RETRY.sub(_retry, text)


def _retry(match: re.Match[str]) -> str:
    before = match[1] or ""
    words = {".": "Retry the flow run", "": "Retry the flow run", ":": "retry the flow run"}
    return before + words.get(before.strip(), "then retry the flow run")


def shown_lines(text: str) -> list[str]:
    """Return the last lines of an output, without secrets, control characters and overlong ends.

    Args:
        text: The end of the output.
    """
    lines = plain("\n".join(redact(text).splitlines())).expandtabs(1).split("\n")
    return [line.rstrip()[:_LONGEST_LINE] for line in lines if line.strip()][-_MOST_LINES:]
