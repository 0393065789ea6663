"""The end of a submission: its result, why it failed in words, and whether another one follows."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.launchers import SlurmResources, time_limit_s
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.calls import Clock
from tasks.slurm.diagnosis import Case, diagnose
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.evidence import Found, progressed
from tasks.slurm.failures import Ended, Retry, is_missing_everywhere, next_step
from tasks.slurm.judgement import Told, Verdict, is_not_there
from tasks.slurm.launcher import JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.results import STOPPED, slurm_output, write_result
from tasks.slurm.sightings import Accounted
from tasks.slurm.states import FailureClass

_MIB = 2**20
_UNITS = {"K": 2**10, "M": _MIB, "G": 2**30, "T": 2**40}
_TAIL_BYTES = 8192


def memory_bytes(resources: SlurmResources) -> int | None:
    """Return the memory that a job asks for on a node; None if that is up to the cluster."""
    text = resources.memory
    if text is None or text == "0":
        return None
    number, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "M")
    return int(number) * _UNITS[unit]


class Conclusions:
    """Writes down how submissions have ended, in the run directory first, in the ledger then.

    So a job that is over in the ledger has its result, whatever happens in between.

    Args:
        ledger: The ledger.
        clock: The time.
    """

    def __init__(self, ledger: LeaderLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def conclude(
        self,
        entry: Entry,
        verdict: Verdict,
        told: Told,
        found: Found,
        accounted: Sequence[Accounted] = (),
        *,
        words: str = "",
    ) -> None:
        """Conclude a submission.

        Args:
            entry: The job.
            verdict: What has become of it; final.
            told: What Slurm has told of it.
            found: What the node has left.
            accounted: Its incarnations in the accounting.
            words: What sbatch has said, if it refused it.
        """
        entry = replace(entry, slurm_state=told.state, reason="", failure="")
        directory = RunDirectory(Path(entry.run_dir))
        if verdict.failure is None:
            if found.result is None or found.result.status != "finished":
                message = f"it left exit code 0 and no result of its own; see {directory.stdout}"
                write_result(directory, Result(status="finished", message=message))
            self._end(replace(entry, state=LedgerState.FINISHED), None, "")
            return
        nodes = entry.nodes or (accounted[-1].nodes if accounted else "")
        node = nodes or (found.started.node if found.started else "")
        history = self._ledger.failures(entry)
        failure = verdict.failure
        is_launch = failure is FailureClass.LAUNCH_FAILURE and is_not_there(told, found)
        if is_launch and is_missing_everywhere(history, node):
            failure = FailureClass.APPLICATION_ERROR
        ended = Ended(failure, node=node, moved=progressed(directory, found))
        launcher = self._ledger.launcher(entry.study_dir)
        step = next_step(
            [*history, ended],
            max_retries=launcher.max_retries,
            requeue=launcher.requeue,
        )
        is_retried = isinstance(step, Retry) and not entry.wish_cancel
        case = self._case(entry, ended, told, found, accounted)
        case = replace(case, message=words or case.message)
        case = replace(case, next_words=step.words, is_retried=is_retried)
        explanation = str(replace(diagnose(case), last_lines=()))
        if isinstance(step, Retry) and is_retried:
            again = replace(
                entry,
                state=LedgerState.PLANNED,
                exclude=",".join(step.exclude),
                not_before_s=self._clock.unix() + step.delay_s,
            )
            self._end(again, ended, explanation)
            return
        state = LedgerState((verdict.state or JobState.FAILED).value)
        _leave_result(directory, state, ended.failure, found, explanation)
        self._end(replace(entry, state=state, failure=ended.failure), ended, explanation)

    def withdraw(self, entry: Entry) -> None:
        """Conclude a job that was cancelled while it was only planned."""
        directory = RunDirectory(Path(entry.run_dir))
        if directory.attempts():
            write_result(directory, STOPPED)
        self._end(replace(entry, state=LedgerState.INTERRUPTED), None, "cancelled while it waited")

    def abandon(self, entry: Entry, words: str) -> None:
        """Conclude a job that waits to be submitted, and cannot be.

        Args:
            entry: The job.
            words: Why, for people.
        """
        result = Result(status="failed", reason=FailureClass.SUBMIT_REFUSED, message=words)
        write_result(RunDirectory(Path(entry.run_dir)), result)
        failed = replace(entry, state=LedgerState.FAILED, failure=FailureClass.SUBMIT_REFUSED)
        self._end(failed, None, words)

    def _end(self, entry: Entry, ended: Ended | None, words: str) -> None:
        self._ledger.end(entry, ended, words, self._clock.unix())

    def _case(
        self,
        entry: Entry,
        ended: Ended,
        told: Told,
        found: Found,
        accounted: Sequence[Accounted],
    ) -> Case:
        resources = self._ledger.resources(entry)
        last = accounted[-1] if accounted else None
        started = found.started
        last_lines = _last_lines(RunDirectory(Path(entry.run_dir)).stdout) if started else ()
        last_lines = last_lines or _last_lines(slurm_output(entry))
        said = next(filter(None, reversed(last_lines)), "") if started is None else ""
        return Case(
            failure=ended.failure,
            state=told.state,
            slurm_job=entry.slurm_job,
            reason=told.reason,
            partition=(last.partition if last else "") or (started.partition if started else ""),
            nodes=ended.node,
            exit_code=told.exit_code,
            signal=told.signal,
            code=found.exit.code if found.exit else None,
            has_begun=started is not None,
            has_moved=ended.moved,
            elapsed_s=last.elapsed_s if last else None,
            time_limit_s=time_limit_s(resources.time_limit),
            max_rss_bytes=told.max_rss_bytes,
            memory_bytes=memory_bytes(resources),
            cancelled_by=told.cancelled_by,
            message=found.result.message if found.result else said,
            last_lines=last_lines,
        )


def _leave_result(
    directory: RunDirectory,
    state: LedgerState,
    failure: FailureClass,
    found: Found,
    explanation: str,
) -> None:
    """Write the result, unless the engine has written one that says the same."""
    status = "interrupted" if state is LedgerState.INTERRUPTED else "failed"
    if found.result is not None and found.result.status == status:
        return
    if failure is FailureClass.CANCELLED_BY_USER:
        write_result(directory, STOPPED)
    elif state is LedgerState.INTERRUPTED:
        write_result(directory, STOPPED.model_copy(update={"message": explanation}))
    else:
        result = Result(status="failed", reason=failure.value, message=explanation)
        write_result(directory, result)


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines())
    except OSError:
        return ()
