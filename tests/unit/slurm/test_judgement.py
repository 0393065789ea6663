"""The truth table of Slurm's states and the node's evidence, and what refines it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.records import Exit, Result, Started
from tasks.slurm.evidence import Found
from tasks.slurm.judgement import TABLE, Action, Told, Verdict, judge, told_of
from tasks.slurm.launcher import JobState
from tasks.slurm.sightings import Accounted, Queued
from tasks.slurm.states import Evidence, FailureClass, SlurmState

GIB = 2**30
CODES = {
    Evidence.FINISHED: 0,
    Evidence.INTERRUPTED: 143,
    Evidence.REQUEUED: 143,
    Evidence.STUCK: 143,
    Evidence.FAILED: 1,
    Evidence.KILLED: 137,
}
STATES = st.sampled_from(SlurmState)
EVIDENCE = st.sampled_from(Evidence)
# Neither of them is a word on the job's end, so the node's word alone decides about it.
WITHOUT_SLURMS_WORD = {SlurmState.ABSENT, SlurmState.REVOKED}


def find(
    evidence: Evidence,
    *,
    code: int | None = None,
    signals: tuple[str, ...] = (),
    slurm_job: str = "12",
    restarts: int = 0,
    reason: str = "",
) -> Found:
    """Make what a reader of the run directory would find."""
    if evidence in {Evidence.NONE, Evidence.UNREADABLE}:
        return Found(evidence)
    started = Started(
        pid=1, host="h", timestamp_ms=1, submission=1, slurm_job=slurm_job, restarts=restarts
    )
    ended = None
    if evidence in CODES:
        code = CODES[evidence] if code is None else code
        ended = Exit(code=code, timestamp_ms=2, signals=signals)
    result = Result(status="failed", reason=reason) if reason else None
    return Found(evidence, attempt=1, started=started, exit=ended, result=result)


def tell(state: SlurmState, **facts: Any) -> Told:
    """Make what Slurm tells of job 12."""
    return Told(state, slurm_job="12", **facts)


TOLD = st.builds(
    Told,
    state=STATES,
    slurm_job=st.sampled_from(["", "12", "13"]),
    reason=st.sampled_from(["", "None", "BeginTime", "Priority", "RaisedSignal:9(Killed)"]),
    restarts=st.integers(0, 2),
    exit_code=st.sampled_from([0, 1, 75, 127, 137, 139, 143]),
    signal=st.sampled_from([0, 9, 15, 53]),
    cancelled_by=st.sampled_from([None, 0, 1000]),
    max_rss_bytes=st.sampled_from([None, GIB, 16 * GIB]),
)
FOUND = st.builds(
    find,
    EVIDENCE,
    code=st.none(),
    signals=st.sampled_from([(), ("SIGUSR1",), ("SIGTERM",)]),
    slurm_job=st.sampled_from(["12", "13"]),
    restarts=st.integers(0, 2),
    reason=st.sampled_from(["", "memory", "internal"]),
)


@given(TOLD, FOUND, st.booleans(), st.sampled_from([None, 1000]), st.sampled_from([None, 16 * GIB]))
def test_every_case_has_one_sound_verdict(
    told: Told,
    found: Found,
    wish_cancel: bool,  # noqa: FBT001  given by position
    own_uid: int | None,
    memory_bytes: int | None,
) -> None:
    """Whatever is seen, there is a verdict; only an end can have a reason, and needs no action."""
    verdict = judge(
        told, found, wish_cancel=wish_cancel, own_uid=own_uid, memory_bytes=memory_bytes
    )

    is_bad_end = verdict.is_final and verdict.state is not JobState.FINISHED
    assert (verdict.failure is not None) == is_bad_end
    assert not verdict.is_final or verdict.action is Action.NONE
    # What is unknown is never final, on either side.
    if told.state is SlurmState.UNKNOWN or found.evidence is Evidence.UNREADABLE:
        assert not verdict.is_final
    # Nothing that the node says ends a job that Slurm still has.
    if not told.state.is_final and told.state not in WITHOUT_SLURMS_WORD:
        assert not verdict.is_final
    # Success takes the node's exit; and with that, a job that is over is a success.
    is_over = told.state.is_final or told.state in WITHOUT_SLURMS_WORD
    is_success = is_over and found.evidence is Evidence.FINISHED
    assert (verdict.state is JobState.FINISHED) == is_success
    # Nobody who wished to cancel gets a retry.
    if wish_cancel and is_bad_end:
        assert verdict.failure in {
            FailureClass.CANCELLED_BY_USER,
            FailureClass.APPLICATION_ERROR,
            FailureClass.OUT_OF_MEMORY,
        }


def test_the_table_is_complete() -> None:
    """Every state of Slurm has a row, and every row a word on every evidence."""
    assert set(TABLE) == set(SlurmState)
    assert all(set(row) == set(Evidence) for row in TABLE.values())


@pytest.mark.parametrize("state", [s for s in SlurmState if s.is_final])
@pytest.mark.parametrize("evidence", [Evidence.NONE, Evidence.ALIVE, Evidence.SILENT])
def test_a_job_that_is_over_without_an_exit_has_failed(
    state: SlurmState, evidence: Evidence
) -> None:
    """No job that Slurm has done with is waited for: COMPLETED without a result is no success."""
    verdict = judge(tell(state), find(evidence))

    assert verdict.is_final
    assert verdict.state is not JobState.FINISHED


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        (SlurmState.TIMEOUT, FailureClass.TIME_LIMIT),
        (SlurmState.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY),
        (SlurmState.NODE_FAIL, FailureClass.NODE_FAILURE),
        (SlurmState.PREEMPTED, FailureClass.PREEMPTED),
        (SlurmState.DEADLINE, FailureClass.DEADLINE),
        (SlurmState.BOOT_FAIL, FailureClass.LAUNCH_FAILURE),
        (SlurmState.CANCELLED, FailureClass.CANCELLED_BY_USER),
    ],
)
@pytest.mark.parametrize(
    "evidence", [e for e in Evidence if e not in {Evidence.FINISHED, Evidence.FAILED}]
)
def test_where_slurm_names_the_cause_it_is_believed(
    state: SlurmState, failure: FailureClass, evidence: Evidence
) -> None:
    """An attempt that was stopped or killed does not know why; Slurm does."""
    verdict = judge(tell(state), find(evidence))

    expected = None if evidence is Evidence.UNREADABLE else failure
    assert verdict.failure is expected


@pytest.mark.parametrize(
    "state",
    [SlurmState.TIMEOUT, SlurmState.NODE_FAIL, SlurmState.PREEMPTED, SlurmState.CANCELLED],
)
def test_what_the_engine_says_of_itself_goes_first(state: SlurmState) -> None:
    """A run of an allocation that failed by itself has not been stopped with the others."""
    verdict = judge(tell(state), find(Evidence.FAILED), wish_cancel=True)

    assert verdict == Verdict(JobState.FAILED, FailureClass.APPLICATION_ERROR)


def test_a_process_killed_for_memory_goes_before_what_the_engine_says() -> None:
    """The exception: a data loader that was killed is an error to the engine, and no bug of it."""
    verdict = judge(tell(SlurmState.OUT_OF_MEMORY), find(Evidence.FAILED))

    assert verdict == Verdict(JobState.FAILED, FailureClass.OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("state", "failure"),
    [
        (SlurmState.NODE_FAIL, FailureClass.NODE_FAILURE),
        (SlurmState.PREEMPTED, FailureClass.PREEMPTED),
        (SlurmState.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY),
        (SlurmState.CANCELLED, FailureClass.CANCELLED_BY_USER),
    ],
)
def test_why_a_rank_was_lost_slurm_knows_best(state: SlurmState, failure: FailureClass) -> None:
    """The ranks that are left see a closed connection; Slurm sees the node that went with it."""
    verdict = judge(tell(state), find(Evidence.FAILED, reason="rank_lost"))

    assert verdict.failure is failure


@pytest.mark.parametrize(
    ("told", "found", "failure"),
    [
        # The output file could not be opened: exit 0:53.
        (tell(SlurmState.FAILED, signal=53), find(Evidence.NONE), FailureClass.LAUNCH_FAILURE),
        (
            tell(SlurmState.FAILED, signal=53, restarts=1),
            find(Evidence.INTERRUPTED),
            FailureClass.LAUNCH_FAILURE,
        ),
        # A command is not there, which may be this node's fault: of the script, or of the job.
        (tell(SlurmState.FAILED, exit_code=127), find(Evidence.NONE), FailureClass.LAUNCH_FAILURE),
        (tell(SlurmState.FAILED, exit_code=126), find(Evidence.NONE), FailureClass.LAUNCH_FAILURE),
        (
            tell(SlurmState.FAILED, exit_code=127),
            find(Evidence.FAILED, code=127),
            FailureClass.LAUNCH_FAILURE,
        ),
        (
            tell(SlurmState.FAILED, exit_code=127),
            find(Evidence.FAILED, code=127, reason="data"),
            FailureClass.APPLICATION_ERROR,
        ),
        # A line of set-up has failed.
        (
            tell(SlurmState.FAILED, exit_code=1),
            find(Evidence.NONE),
            FailureClass.APPLICATION_ERROR,
        ),
        (
            tell(SlurmState.FAILED, reason="NonZeroExitCode"),
            find(Evidence.NONE),
            FailureClass.APPLICATION_ERROR,
        ),
        # The whole job was killed at its limit of memory: FAILED 0:9.
        (
            tell(SlurmState.FAILED, signal=9, max_rss_bytes=int(15.5 * GIB)),
            find(Evidence.ALIVE),
            FailureClass.OUT_OF_MEMORY,
        ),
        (
            tell(SlurmState.FAILED, exit_code=137, max_rss_bytes=int(15.5 * GIB)),
            find(Evidence.SILENT),
            FailureClass.OUT_OF_MEMORY,
        ),
        # From four fifths of the limit on a peak is near it, as Slurm samples it too rarely.
        (
            tell(SlurmState.FAILED, signal=9, max_rss_bytes=13 * GIB),
            find(Evidence.ALIVE),
            FailureClass.OUT_OF_MEMORY,
        ),
        (
            tell(SlurmState.FAILED, signal=9, max_rss_bytes=int(12.5 * GIB)),
            find(Evidence.ALIVE),
            FailureClass.LOST,
        ),
        # The same far from the limit, or with no number: nobody knows.
        (
            tell(SlurmState.FAILED, signal=9, max_rss_bytes=GIB),
            find(Evidence.ALIVE),
            FailureClass.LOST,
        ),
        (tell(SlurmState.FAILED, signal=9), find(Evidence.ALIVE), FailureClass.LOST),
        # The engine alone was killed: the kernel did it, unless memory was far from its limit.
        (tell(SlurmState.FAILED), find(Evidence.KILLED, code=137), FailureClass.OUT_OF_MEMORY),
        (tell(SlurmState.ABSENT), find(Evidence.KILLED, code=137), FailureClass.OUT_OF_MEMORY),
        (
            tell(SlurmState.FAILED, max_rss_bytes=GIB),
            find(Evidence.KILLED, code=137),
            FailureClass.LOST,
        ),
        (tell(SlurmState.FAILED), find(Evidence.KILLED, code=139), FailureClass.APPLICATION_ERROR),
        # Python, or torch, found no memory, and said so.
        (
            tell(SlurmState.FAILED, exit_code=1),
            find(Evidence.FAILED, reason="memory"),
            FailureClass.OUT_OF_MEMORY,
        ),
        # A rank was lost: the others say so, and only memory near its limit says why.
        (
            tell(SlurmState.FAILED, exit_code=1),
            find(Evidence.FAILED, reason="rank_lost"),
            FailureClass.RANK_LOST,
        ),
        (
            tell(SlurmState.FAILED, exit_code=137, max_rss_bytes=GIB),
            find(Evidence.KILLED, code=137, reason="rank_lost"),
            FailureClass.RANK_LOST,
        ),
        (
            tell(SlurmState.FAILED, exit_code=1, max_rss_bytes=int(15.5 * GIB)),
            find(Evidence.FAILED, reason="rank_lost"),
            FailureClass.OUT_OF_MEMORY,
        ),
        # The wrapper passed the code on, but could not write it down: a full disk.
        (
            tell(SlurmState.FAILED, exit_code=1),
            find(Evidence.ALIVE),
            FailureClass.APPLICATION_ERROR,
        ),
        # The same for what sacct makes of codes from 128 on: these are signals.
        (tell(SlurmState.FAILED, exit_code=15), find(Evidence.ALIVE), FailureClass.LOST),
        (
            tell(SlurmState.FAILED, exit_code=9, max_rss_bytes=int(15.5 * GIB)),
            find(Evidence.NONE),
            FailureClass.OUT_OF_MEMORY,
        ),
        # Refused on the node, and whoever had the run has fallen silent.
        (tell(SlurmState.FAILED, exit_code=75), find(Evidence.SILENT), FailureClass.LOST),
        (tell(SlurmState.FAILED, exit_code=75), find(Evidence.NONE), FailureClass.LAUNCH_FAILURE),
        # Stopped by the warning before the time limit, and not requeued.
        (
            tell(SlurmState.FAILED, exit_code=143),
            find(Evidence.INTERRUPTED, signals=("SIGUSR1",)),
            FailureClass.TIME_LIMIT,
        ),
        # Stopped by somebody of whom Slurm knows nothing.
        (
            tell(SlurmState.FAILED, exit_code=143),
            find(Evidence.INTERRUPTED, signals=("SIGTERM",)),
            FailureClass.LOST,
        ),
        # The later incarnation never claimed an attempt: what the earlier one left is history.
        (
            tell(SlurmState.FAILED, exit_code=1, restarts=1),
            find(Evidence.INTERRUPTED, signals=("SIGUSR1",)),
            FailureClass.LAUNCH_FAILURE,
        ),
        (tell(SlurmState.COMPLETED), find(Evidence.NONE), FailureClass.LAUNCH_FAILURE),
        (tell(SlurmState.COMPLETED), find(Evidence.SILENT), FailureClass.LOST),
        (tell(SlurmState.ABSENT), find(Evidence.NONE), FailureClass.LOST),
        (tell(SlurmState.ABSENT), find(Evidence.SILENT), FailureClass.LOST),
        (tell(SlurmState.ABSENT), find(Evidence.STUCK), FailureClass.TIME_LIMIT),
    ],
)
def test_where_slurm_names_no_cause_it_is_found(
    told: Told, found: Found, failure: FailureClass
) -> None:
    """Codes, signals and the peak of memory tell what a bare FAILED does not."""
    verdict = judge(told, found, memory_bytes=16 * GIB)

    assert verdict.failure is failure


@pytest.mark.parametrize(
    ("cancelled_by", "failure"),
    [
        (1000, FailureClass.CANCELLED_BY_USER),
        (0, FailureClass.CANCELLED_BY_ADMIN),
        (None, FailureClass.CANCELLED_BY_USER),
    ],
)
def test_who_cancelled_is_told_apart(cancelled_by: int | None, failure: FailureClass) -> None:
    """Another user id than one's own is an administrator; without any it was the user."""
    told = tell(SlurmState.CANCELLED, cancelled_by=cancelled_by)

    verdict = judge(told, find(Evidence.INTERRUPTED), own_uid=1000)

    assert verdict == Verdict(JobState.INTERRUPTED, failure)


def test_a_wished_cancellation_is_the_users_even_if_root_carried_it_out() -> None:
    """Who wished the job to stop is not told that an administrator did it."""
    told = tell(SlurmState.CANCELLED, cancelled_by=0)

    verdict = judge(told, find(Evidence.NONE), wish_cancel=True, own_uid=1000)

    assert verdict.failure is FailureClass.CANCELLED_BY_USER


@pytest.mark.parametrize("state", [SlurmState.PENDING, SlurmState.RUNNING, SlurmState.UNKNOWN])
def test_a_wish_to_cancel_is_carried_out_until_the_job_is_over(state: SlurmState) -> None:
    """While the job may live, it is to be cancelled; also when Slurm last gave no answer."""
    verdict = judge(tell(state), find(Evidence.NONE), wish_cancel=True)

    assert verdict.action is Action.CANCEL
    assert not verdict.is_final


@pytest.mark.parametrize(
    ("evidence", "action"),
    [
        (Evidence.REQUEUED, Action.START_NOW),
        (Evidence.INTERRUPTED, Action.START_NOW),
        (Evidence.KILLED, Action.START_NOW),
        (Evidence.FINISHED, Action.CANCEL),
        # It may still be alive behind a network partition: the 121 s are for its sake.
        (Evidence.SILENT, Action.NONE),
        (Evidence.ALIVE, Action.NONE),
        # Held for another reason: --begin.
        (Evidence.NONE, Action.NONE),
    ],
)
def test_a_requeued_job_starts_at_once_if_its_old_attempt_is_over(
    evidence: Evidence, action: Action
) -> None:
    """The hold after a requeue is taken back only when nothing can be running any more."""
    told = tell(SlurmState.PENDING, reason="BeginTime", restarts=1)

    verdict = judge(told, find(evidence))

    assert verdict.action is action


def test_an_exit_makes_slurm_be_asked_at_once() -> None:
    """Between two ticks an exit file resolves a job: Slurm is asked to confirm it."""
    verdict = judge(tell(SlurmState.RUNNING), find(Evidence.FINISHED))

    assert verdict == Verdict(JobState.RUNNING, action=Action.LOOK_AGAIN)


def test_a_restarted_job_is_not_mistaken_for_its_former_self() -> None:
    """A job that runs for the second time, and has not claimed yet, has not ended."""
    told = tell(SlurmState.RUNNING, restarts=1)

    verdict = judge(told, find(Evidence.REQUEUED, restarts=0))

    assert verdict == Verdict(JobState.RUNNING)


def test_the_run_of_another_job_is_followed() -> None:
    """A duplicate that was refused on the node has not failed: the run is with the other job."""
    told = tell(SlurmState.FAILED, exit_code=75)

    verdict = judge(told, find(Evidence.ALIVE, slurm_job="11"))

    assert verdict == Verdict(JobState.RUNNING, action=Action.ADOPT)


def test_a_job_that_was_started_twice_goes_on() -> None:
    """A crashed controller may start a job again that still runs: its second start is refused."""
    verdict = judge(tell(SlurmState.FAILED, exit_code=75), find(Evidence.ALIVE))

    assert verdict == Verdict(JobState.RUNNING)


def test_a_beating_heart_outlives_a_forgetful_controller() -> None:
    """A job that Slurm has forgotten, but that is alive, is not submitted again."""
    verdict = judge(tell(SlurmState.ABSENT), find(Evidence.ALIVE))

    assert verdict == Verdict(JobState.RUNNING)


def test_the_queue_goes_before_the_accounting() -> None:
    """The accounting lags: a job that waits again has not ended as it did before."""
    queued = Queued("12", "ws", SlurmState.PENDING, reason="BeginTime", restarts=1)
    accounted = [Accounted("12", "ws", SlurmState.NODE_FAIL, exit_code=1)]

    told = told_of(queued, accounted)

    assert told == Told(SlurmState.PENDING, slurm_job="12", reason="BeginTime", restarts=1)


def test_the_accounting_adds_to_the_queue() -> None:
    """Where both tell of the same end, state and reason are the queue's, codes the accounting's."""
    queued = Queued("12", "ws", SlurmState.FAILED, reason="NonZeroExitCode", restarts=2)
    accounted = [Accounted("12", "ws", SlurmState.FAILED, exit_code=1, max_rss_bytes=5)]

    told = told_of(queued, accounted)

    assert told == Told(
        SlurmState.FAILED,
        slurm_job="12",
        reason="NonZeroExitCode",
        restarts=2,
        exit_code=1,
        max_rss_bytes=5,
    )


def test_the_accounting_tells_of_jobs_that_left_the_queue() -> None:
    """Each incarnation is a row; the last one is the job's, those before are its restarts."""
    accounted = [
        Accounted("12", "ws", SlurmState.PREEMPTED),
        Accounted("12", "ws", SlurmState.FAILED, exit_code=3, signal=9),
    ]

    told = told_of(None, accounted)

    assert told == Told(SlurmState.FAILED, slurm_job="12", restarts=1, exit_code=3, signal=9)


def test_without_accounting_the_reason_tells_the_signal() -> None:
    """The queue has no exit code, but says by which signal a job died."""
    told = told_of(Queued("12", "ws", SlurmState.FAILED, reason="RaisedSignal:53(Real-time)"))

    assert told.signal == 53


def test_silence_is_not_absence() -> None:
    """A job that neither tells of is unknown; that it is absent takes a second look."""
    assert told_of(None) == Told(SlurmState.UNKNOWN)


def test_the_final_states_are_slurms_base_states() -> None:
    """Flags (REQUEUED, COMPLETING, LAUNCH_FAILED, ...) stand beside a base state, and pass."""
    final = {state for state in SlurmState if state.is_final}

    assert final == {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
