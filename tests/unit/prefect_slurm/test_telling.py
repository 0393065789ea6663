"""What is to be done about a job, and in which words."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import StateType

from tasks.prefect_slurm.telling import (
    HOOKS_S,
    REQUEUED_S,
    Deed,
    crashed_message,
    deed,
    in_words_of_the_pool,
    queued_message,
    queued_name,
    shown_lines,
)
from tasks.slurm.diagnosis import Case, diagnose
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.states import FailureClass
from tasks.slurm.waiting import _REASONS, why_waiting

ENTRY = Entry(
    run_dir="/runs/f/1",
    study_dir="/runs/f",
    state=LedgerState.SUBMITTED,
    submission=1,
    first_submission=1,
    name="ws-0-1",
    mode="single",
    task=None,
    slurm_job="12",
    slurm_state="PENDING",
    reason="Resources",
    restarts=0,
    nodes="",
    failure="",
    message="",
    exclude="",
    wish_cancel=False,
    needs_costs=False,
    not_before_s=0.0,
    submitting_s=0.0,
    changed_s=0.0,
)
FINAL = [one for one in LedgerState if one.job_state.is_final]
LIVE = [one for one in LedgerState if not one.job_state.is_final]


def _entry(state: LedgerState, **changes: object) -> Entry:
    return dataclasses.replace(ENTRY, state=state, **changes)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize(
    ("state", "flow_run", "expected"),
    [
        (LedgerState.SUBMITTED, StateType.PENDING, Deed.TELL_QUEUED),
        (LedgerState.RUNNING, StateType.PENDING, Deed.NOTHING),
        (LedgerState.RUNNING, StateType.RUNNING, Deed.NOTHING),
        (LedgerState.RUNNING, StateType.COMPLETED, Deed.NOTHING),
        (LedgerState.SUBMITTED, StateType.CRASHED, Deed.NOTHING),
        (LedgerState.PLANNED, StateType.CANCELLED, Deed.CANCEL),
        (LedgerState.SUBMITTED, StateType.CANCELLING, Deed.CANCEL),
        (LedgerState.RUNNING, StateType.CANCELLED, Deed.CANCEL),
        (LedgerState.RUNNING, StateType.CANCELLING, Deed.NOTHING),
        (LedgerState.FAILED, StateType.RUNNING, Deed.TELL_CRASHED),
        (LedgerState.FINISHED, StateType.RUNNING, Deed.TELL_CRASHED),
        (LedgerState.INTERRUPTED, StateType.CANCELLING, Deed.TELL_CANCELLED),
        (LedgerState.FINISHED, StateType.COMPLETED, Deed.CLOSE),
        (LedgerState.FINISHED, StateType.PAUSED, Deed.CLOSE),
        (LedgerState.FINISHED, StateType.SCHEDULED, Deed.CLOSE),
        (LedgerState.FAILED, StateType.FAILED, Deed.CLOSE),
    ],
)
def test_deeds(state: LedgerState, flow_run: StateType, expected: Deed) -> None:
    """The table of what follows."""
    assert deed(_entry(state), flow_run) is expected


def test_a_flow_that_runs_may_stop_by_itself_first() -> None:
    """Its hooks have some seconds; ten are allowed in all."""
    running = _entry(LedgerState.RUNNING)

    assert deed(running, StateType.CANCELLING, ended_s=HOOKS_S - 0.1) is Deed.NOTHING
    assert deed(running, StateType.CANCELLING, ended_s=HOOKS_S) is Deed.CANCEL
    assert HOOKS_S <= 5


def test_a_completed_flow_run_is_not_run_again_by_a_requeue() -> None:
    """Its node was lost before the job's process had ended; one that crashed may go on."""
    queued = _entry(LedgerState.SUBMITTED, restarts=1)

    assert deed(queued, StateType.COMPLETED, ended_s=REQUEUED_S - 0.1) is Deed.NOTHING
    assert deed(queued, StateType.COMPLETED, ended_s=REQUEUED_S) is Deed.CANCEL
    for kind in (StateType.CRASHED, StateType.FAILED):
        assert deed(queued, kind, ended_s=REQUEUED_S) is Deed.NOTHING


@given(st.sampled_from(LIVE), st.sampled_from([*StateType, None]), st.floats(0, 1e6))
def test_a_live_job_is_never_told_to_have_ended(
    state: LedgerState, flow_run: StateType | None, ended_s: float
) -> None:
    """Nor is it cancelled unless Prefect says so; a server that lost its data says nothing."""
    found = deed(_entry(state), flow_run, ended_s=ended_s)

    assert found in {Deed.NOTHING, Deed.CANCEL, Deed.TELL_QUEUED}
    is_wished = flow_run in {StateType.CANCELLING, StateType.CANCELLED}
    is_again = flow_run is StateType.COMPLETED and state is not LedgerState.RUNNING
    assert found is not Deed.CANCEL or is_wished or is_again


@given(st.sampled_from(FINAL), st.sampled_from([*StateType, None]))
def test_an_earlier_job_of_a_flow_run_says_nothing_of_it(
    state: LedgerState, flow_run: StateType | None
) -> None:
    """A retry is under way, and only its own job can crash it."""
    assert deed(_entry(state), flow_run, is_newest=False) is Deed.CLOSE


@pytest.mark.parametrize("failure", FailureClass)
@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("has_moved", [True, False])
def test_every_failure_is_explained_in_the_words_of_a_pool(
    failure: FailureClass, *, has_begun: bool, has_moved: bool
) -> None:
    """No command of a study's and no field of a launcher is left in it."""
    case = Case(failure=failure, slurm_job="12", has_begun=has_begun, has_moved=has_moved)
    explained = str(diagnose(case))

    found = crashed_message(_entry(LedgerState.FAILED, failure=failure.value, message=explained))

    assert found.startswith(f"[{failure.value}] ")
    assert "watershed" not in found
    assert "launcher." not in found
    assert "RETRY" not in found
    assert "retry the flow run" in found.lower()


@pytest.mark.parametrize("reason", [row[0] for row in _REASONS])
def test_every_reason_to_wait_is_told_in_the_words_of_a_pool(reason: str) -> None:
    """The same for what waits."""
    words = in_words_of_the_pool(str(why_waiting(reason.partition("|")[0], "12")))

    assert "watershed" not in words
    assert "launcher." not in words


def test_a_queued_job_says_why() -> None:
    """The state's name has Slurm's word, its message the meaning."""
    assert queued_name(ENTRY) == "Queued (Resources)"
    assert "as soon as nodes are free (Resources)" in queued_message(ENTRY)
    planned = _entry(LedgerState.PLANNED, message="sbatch: queue is full")
    assert queued_name(planned) == "Queued (not submitted yet)"
    assert "Before: sbatch: queue is full" in queued_message(planned)


def test_an_end_without_a_word_is_told() -> None:
    """Exit code 0 is no final state of a flow run."""
    message = crashed_message(_entry(LedgerState.FINISHED))

    assert "Job 12 has ended with exit code 0" in message
    assert "/runs/f/1" in message


def test_shown_lines_hide_secrets() -> None:
    """They go to Prefect's server, where others read them."""
    text = "\n".join([*map(str, range(30)), "PREFECT_API_KEY=pnu_0123456789abcdef0123", "\x1b[31m"])

    lines = shown_lines(text)

    assert len(lines) == 15
    assert "pnu_" not in "".join(lines)
    assert lines[-2] == "PREFECT_API_KEY=***"
