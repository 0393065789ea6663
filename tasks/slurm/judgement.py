"""What has become of a job: Slurm's word and the node's own files, taken together.

Slurm says *that* a submission is over, the files in the run directory say *how* it went. Success
needs both: an exit file with code 0, and a Slurm that has done with the job. All that can be seen
stands in one table, ``TABLE``; what takes more than the two words is in the rules below it.

Decisions that are not obvious:

* *A complete result stands*, whatever Slurm's last word is. An attempt that left code 0 has its
  result on disk, whole and fenced; a time limit, a node failure or a preemption in its last second
  changes no bit of it. To compute it again would burn node-hours for the same bits, and the node
  would refuse to. Of many runs in one allocation Slurm tells only the worst anyway.
* *Without a result no success*: COMPLETED alone says no more than that the script ended.
* *What the engine says of itself goes before what Slurm says*: code 1 to 127 but 75 is an error
  of the application, also if the node was lost afterwards. Memory is the exception: where Slurm
  knows of a process killed for it, the engine saw only the consequence. So are lost ranks: those
  that are left know that one is gone, and Slurm may know why.
* *A job that is queued again is not over*, nor is one whose scheduler or file system is silent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tasks.runtime.errors import Reason
from tasks.runtime.signs import EXIT_ALREADY_RUNNING
from tasks.slurm.evidence import FIRST_SIGNAL_CODE, LIMIT_WARNING, NOT_THERE, NOTHING, Found
from tasks.slurm.launcher import JobState
from tasks.slurm.sightings import HELD_AFTER_REQUEUE, OUTPUT_FAILED, Accounted, Queued
from tasks.slurm.states import Evidence, FailureClass, SlurmState

_SIGKILL, _SIGTERM = 9, 15
_NEAR_LIMIT = 0.8
"""Slurm samples memory every some seconds (JobAcctGatherFrequency): a peak is told too low."""
_RAISED_SIGNAL = re.compile(r"RaisedSignal:(\d+)")
_NON_ZERO = "NonZeroExitCode"


class Action(StrEnum):
    """What the reconciler is to do about a job that is not over."""

    NONE = "none"
    """Nothing before the next tick."""
    LOOK_AGAIN = "look_again"
    """Ask Slurm at once, unless what it said is newer than what the node has left."""
    START_NOW = "start_now"
    """Take back the 121 s for which Slurm holds a requeued job; its old attempt has ended.

    Not in its first seconds: on the node where its former self was killed in the same second,
    slurmd takes the job for that one ("already killed, do not launch"), and it ends FAILED.
    """
    CANCEL = "cancel"
    """Cancel it: that is wished, or it has finished and is queued again all the same."""
    ADOPT = "adopt"
    """The run is with another job, that of ``found.started``: follow that one."""


@dataclass(frozen=True)
class Told:
    """What Slurm has told of a submission.

    Attributes:
        state: Its state, ABSENT or UNKNOWN.
        slurm_job: Its id; empty if it is not known.
        reason: Slurm's word for why it waits, or why it ended.
        restarts: How often it was requeued.
        exit_code: Exit code of the batch script. sacct takes 128 off what is more: 143 is 15.
        signal: Signal that the batch script died of; 0 for none.
        cancelled_by: User id of who cancelled it; None if it is not told.
        max_rss_bytes: Largest resident set; None if it is not told.
    """

    state: SlurmState
    slurm_job: str = ""
    reason: str = ""
    restarts: int = 0
    exit_code: int = 0
    signal: int = 0
    cancelled_by: int | None = None
    max_rss_bytes: int | None = None

    @property
    def died_of(self) -> int:
        """Signal that ended the batch script or its program, as far as codes tell; else 0."""
        code = self.exit_code % FIRST_SIGNAL_CODE
        return self.signal or (code if code in {_SIGKILL, _SIGTERM} else 0)


@dataclass(frozen=True)
class Verdict:
    """Where a submission is.

    Attributes:
        state: Its state, final if the submission is over; None if nothing is known: keep what was
            known before.
        failure: Why it did not end well; None unless it is over, and not finished. ``failures``
            says whether another submission follows.
        action: What to do now.
    """

    state: JobState | None
    failure: FailureClass | None = None
    action: Action = Action.NONE

    @property
    def is_final(self) -> bool:
        """Whether the submission is over."""
        return self.state is not None and self.state.is_final


_INTERRUPTIONS = {
    FailureClass.CANCELLED_BY_USER,
    FailureClass.CANCELLED_BY_ADMIN,
    FailureClass.PREEMPTED,
}


def _ended(failure: FailureClass) -> Verdict:
    state = JobState.INTERRUPTED if failure in _INTERRUPTIONS else JobState.FAILED
    return Verdict(state, failure)


WAIT = Verdict(JobState.WAITING)
WAIT_LOOK = Verdict(JobState.WAITING, action=Action.LOOK_AGAIN)
WAIT_CANCEL = Verdict(JobState.WAITING, action=Action.CANCEL)
RUN = Verdict(JobState.RUNNING)
RUN_LOOK = Verdict(JobState.RUNNING, action=Action.LOOK_AGAIN)
KEEP = Verdict(None)
DONE = Verdict(JobState.FINISHED)
OOM = _ended(FailureClass.OUT_OF_MEMORY)
TIME = _ended(FailureClass.TIME_LIMIT)
PREEMPT = _ended(FailureClass.PREEMPTED)
NODE = _ended(FailureClass.NODE_FAILURE)
LAUNCH = _ended(FailureClass.LAUNCH_FAILURE)
USER = _ended(FailureClass.CANCELLED_BY_USER)
DEADLINE = _ended(FailureClass.DEADLINE)
APP = _ended(FailureClass.APPLICATION_ERROR)
RANK = _ended(FailureClass.RANK_LOST)
LOST = _ended(FailureClass.LOST)
REFUSED = _ended(FailureClass.SUBMIT_REFUSED)

_S, _E = SlurmState, Evidence
_Row = Mapping[Evidence, Verdict]


def _over(failure: Verdict, **exceptions: Verdict) -> _Row:
    """Make the row of a state in which Slurm has done with the job."""
    usual = {_E.FINISHED: DONE, _E.FAILED: APP, _E.UNREADABLE: KEEP}
    return dict.fromkeys(Evidence, failure) | usual | {_E[k]: v for k, v in exceptions.items()}


_LOOK = (_E.FINISHED, _E.INTERRUPTED, _E.STUCK, _E.FAILED, _E.KILLED)
# Queued: an attempt that is alive has begun since Slurm was asked, or was cut off and runs on. An
# exit is as new, or of the incarnation before.
_QUEUED: _Row = dict.fromkeys(Evidence, WAIT) | {_E.ALIVE: RUN} | dict.fromkeys(_LOOK, WAIT_LOOK)
# Held until somebody releases it; what has finished need not wait for that.
_HELD: _Row = dict.fromkeys(Evidence, WAIT) | {_E.ALIVE: RUN, _E.FINISHED: WAIT_CANCEL}
_ON_NODES: _Row = dict.fromkeys(Evidence, RUN) | dict.fromkeys((*_LOOK, _E.REQUEUED), RUN_LOOK)
# KILLED=APP decides nothing, here and below: ``_cause`` goes by the signal, and lost ranks have a
# rule of their own. It is what most signals mean, for the table in the document.
_WITHOUT_CAUSE: _Row = _over(LOST, NONE=LAUNCH, REQUEUED=TIME, STUCK=TIME, KILLED=APP)

TABLE: Mapping[SlurmState, _Row] = {
    _S.PENDING: _QUEUED,
    _S.REQUEUED: _QUEUED,
    _S.REQUEUE_FED: _QUEUED,
    _S.CONFIGURING: _QUEUED,
    _S.POWER_UP_NODE: _QUEUED,
    _S.RECONFIG_FAIL: _QUEUED,
    _S.LAUNCH_FAILED: _HELD,
    _S.REQUEUE_HOLD: _HELD,
    _S.RESV_DEL_HOLD: _HELD,
    _S.SPECIAL_EXIT: _HELD,
    _S.RUNNING: _ON_NODES,
    _S.COMPLETING: _ON_NODES,
    _S.RESIZING: _ON_NODES,
    _S.SIGNALING: _ON_NODES,
    _S.STAGE_OUT: _ON_NODES,
    _S.STOPPED: _ON_NODES,
    _S.SUSPENDED: _ON_NODES,
    _S.COMPLETED: _WITHOUT_CAUSE,
    _S.FAILED: _WITHOUT_CAUSE,
    _S.TIMEOUT: _over(TIME),
    _S.OUT_OF_MEMORY: _over(OOM, FAILED=OOM),
    _S.NODE_FAIL: _over(NODE),
    _S.PREEMPTED: _over(PREEMPT),
    _S.CANCELLED: _over(USER),
    _S.DEADLINE: _over(DEADLINE),
    _S.BOOT_FAIL: _over(LAUNCH),
    # A sibling cluster of the federation has the job: only the node can say more.
    _S.REVOKED: _over(LOST, NONE=WAIT, ALIVE=RUN, SILENT=RUN, REQUEUED=RUN, STUCK=TIME, KILLED=APP),
    _S.ABSENT: _over(LOST, ALIVE=RUN, STUCK=TIME, KILLED=APP),
    _S.UNKNOWN: dict.fromkeys(Evidence, KEEP) | {_E.ALIVE: RUN},
}
"""What is said of a job that nothing else is known of; ``judge`` refines it."""


def told_of(queued: Queued | None, accounted: Sequence[Accounted] = ()) -> Told:
    """Put together what squeue and sacct tell of one job.

    Args:
        queued: Its line in the queue; None if it has left it.
        accounted: Its incarnations in the accounting, oldest first.

    Returns:
        The queue's word on state and restarts where there is one, for the accounting lags behind;
        codes and the like of the accounting, if that speaks of the same end. UNKNOWN if neither
        tells, since ABSENT takes more than one look.
    """
    told = Told(SlurmState.UNKNOWN)
    if accounted and (queued is None or queued.state is accounted[-1].state):
        last = accounted[-1]
        told = Told(
            state=last.state,
            slurm_job=last.slurm_job,
            restarts=len(accounted) - 1,
            exit_code=last.exit_code,
            signal=last.signal,
            cancelled_by=last.cancelled_by,
            max_rss_bytes=last.max_rss_bytes,
        )
    if queued is None:
        return told
    raised = _RAISED_SIGNAL.match(queued.reason)
    return replace(
        told,
        state=queued.state,
        slurm_job=queued.slurm_job,
        reason=queued.reason,
        restarts=queued.restarts,
        signal=told.signal or (int(raised[1]) if raised else 0),
    )


def judge(
    told: Told,
    found: Found,
    *,
    wish_cancel: bool = False,
    own_uid: int | None = None,
    memory_bytes: int | None = None,
) -> Verdict:
    """Say where a submission is, from Slurm's word and the node's files.

    Args:
        told: What Slurm tells.
        found: What the node has left.
        wish_cancel: Whether the user wants it stopped.
        own_uid: The user's id; tells a cancellation by an administrator from one's own.
        memory_bytes: Memory that the job was given on a node; None if it is not known.

    Returns:
        The verdict. It is never final while Slurm has the job, or does not answer.
    """
    found = _of_incarnation(told, found)
    verdict = TABLE[told.state][found.evidence]
    if not verdict.is_final:
        return _to_do(verdict, told, found, wish_cancel=wish_cancel)
    if verdict == DONE:
        return DONE
    if _is_anothers(told, found):
        return Verdict(JobState.RUNNING, action=Action.ADOPT)
    if told.exit_code == EXIT_ALREADY_RUNNING and found.evidence is Evidence.ALIVE:
        return (
            RUN  # a controller that crashed has started it twice, and the node refused the second
        )
    if _has_lost_a_rank(found):
        verdict = _over_ranks(told, memory_bytes)
    elif verdict == APP and found.evidence is Evidence.FAILED:
        if is_not_there(told, found):
            return LAUNCH
        return OOM if found.result is not None and found.result.reason == Reason.MEMORY else APP
    if wish_cancel:
        return USER
    if told.state is SlurmState.CANCELLED:
        by_other = told.cancelled_by is not None and told.cancelled_by != own_uid
        return _ended(FailureClass.CANCELLED_BY_ADMIN) if by_other else USER
    if told.state in _SAY_NO_CAUSE and verdict != RANK:
        return _cause(verdict, told, found, memory_bytes)
    return verdict


def is_not_there(told: Told, found: Found) -> bool:
    """Say whether a command was missing on the node, so that the program never began.

    Args:
        told: What Slurm tells.
        found: What the node has left: nothing, or the wrapper's word that it could not start it.
    """
    if found.started is None:
        return told.exit_code in NOT_THERE and not told.signal
    return found.result is None and found.exit is not None and found.exit.code in NOT_THERE


_SAY_NO_CAUSE = {_S.COMPLETED, _S.FAILED, _S.REVOKED, _S.ABSENT}


def _has_lost_a_rank(found: Found) -> bool:
    """Whether the engine, or what is left of it, says that a rank was lost."""
    is_over = found.evidence in {Evidence.FAILED, Evidence.KILLED}
    return is_over and found.result is not None and found.result.reason == Reason.RANK_LOST


def _over_ranks(told: Told, memory_bytes: int | None) -> Verdict:
    """Find why a rank was lost: Slurm's cause where it names one, memory where it was near."""
    if told.state not in _SAY_NO_CAUSE:
        return TABLE[told.state][Evidence.SILENT]
    return OOM if _is_near(told, memory_bytes) else RANK


def _of_incarnation(told: Told, found: Found) -> Found:
    """Leave out what an earlier incarnation left, once Slurm speaks of a later one that began."""
    if found.started is None or _is_anothers(told, found):
        return found
    is_earlier = found.started.restarts < told.restarts
    has_begun = TABLE[told.state][Evidence.NONE].state is not JobState.WAITING
    is_lasting = found.evidence is Evidence.FINISHED
    return NOTHING if is_earlier and has_begun and not is_lasting else found


def _is_anothers(told: Told, found: Found) -> bool:
    return (
        found.started is not None
        and bool(told.slurm_job and found.started.slurm_job)
        and found.started.slurm_job != told.slurm_job
    )


def _to_do(verdict: Verdict, told: Told, found: Found, *, wish_cancel: bool) -> Verdict:
    if wish_cancel:
        return replace(verdict, action=Action.CANCEL)
    is_held = told.state is SlurmState.PENDING and told.reason == HELD_AFTER_REQUEUE
    if is_held and found.exit is not None:
        is_done = found.evidence is Evidence.FINISHED
        return replace(verdict, action=Action.CANCEL if is_done else Action.START_NOW)
    return verdict


def _cause(verdict: Verdict, told: Told, found: Found, memory_bytes: int | None) -> Verdict:
    """Find what ended a job of which Slurm says only that it ended."""
    if told.signal == OUTPUT_FAILED:
        return LAUNCH
    if verdict == LAUNCH and _has_script_failed(told):
        return APP
    if found.evidence is Evidence.INTERRUPTED and found.exit is not None:
        return TIME if LIMIT_WARNING in found.exit.signals else verdict
    if found.evidence is Evidence.KILLED and found.exit is not None:
        if found.exit.code != FIRST_SIGNAL_CODE + _SIGKILL:
            return APP
        # Whoever kills the engine alone, and not the whole job, is the kernel, for want of memory.
        return LOST if _is_near(told, memory_bytes) is False else OOM
    if found.exit is None and told.died_of == _SIGKILL:
        return OOM if _is_near(told, memory_bytes) else verdict
    if verdict == LOST and told.exit_code not in {0, EXIT_ALREADY_RUNNING} and not told.died_of:
        return APP  # the wrapper passed on the engine's code, and could not write it down
    return verdict


def _has_script_failed(told: Told) -> bool:
    """Whether the script ended by itself before the program began: on other nodes it would, too.

    One that was queued again got further before, so that its node may be to blame. So it may where
    a command is missing, until another node says the same (see ``failures``).
    """
    if told.restarts > 0 or told.died_of or told.exit_code in NOT_THERE:
        return False
    if told.exit_code == 0:  # or nobody knows it, where there is no accounting
        return told.reason == _NON_ZERO
    return told.exit_code != EXIT_ALREADY_RUNNING


def _is_near(told: Told, memory_bytes: int | None) -> bool | None:
    """Whether the peak of memory was near its limit; None if that cannot be known."""
    if told.max_rss_bytes is None or memory_bytes is None:
        return None
    return told.max_rss_bytes >= _NEAR_LIMIT * memory_bytes
