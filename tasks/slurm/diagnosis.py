"""Failures explained in words: what happened, by which numbers, what to change, what to run next.

Facts in, text out: nothing is read here, and nothing is asked. All text that comes from elsewhere
(of the program, of sbatch) is redacted.
"""

import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.runtime.plain_text import plain
from tasks.slurm.evidence import FIRST_SIGNAL_CODE, NOT_THERE
from tasks.slurm.redaction import redact
from tasks.slurm.sightings import OUTPUT_FAILED
from tasks.slurm.states import FailureClass, SlurmState

_GIB = 2**30
_MOST_LINES = 20
_LONGEST_LINE = 300


@dataclass(frozen=True)
class Case:
    """What is known of a submission that did not end well; None where it is not told.

    Attributes:
        failure: Class of the failure.
        state: Slurm's last word.
        slurm_job: Slurm's id of the job.
        reason: Slurm's reason.
        partition: Where it ran.
        nodes: Nodes that it ran on.
        exit_code: Exit code of the batch script.
        signal: Signal that the batch script died of; 0 for none.
        code: Exit code of the program itself; None if it left none.
        has_begun: Whether the job's own program was started.
        has_moved: Whether it left a newer checkpoint than it found.
        elapsed_s: How long it ran.
        time_limit_s: How long it might.
        max_rss_bytes: Peak of its memory.
        memory_bytes: Memory that it had on a node.
        cancelled_by: User id of who cancelled it.
        message: The program's own last word (of ``result.json``), or sbatch's.
        last_lines: Last lines of its output.
        next_words: What the policy says of it, see ``failures``.
        is_retried: Whether another submission follows.
    """

    failure: FailureClass
    state: SlurmState = SlurmState.UNKNOWN
    slurm_job: str = ""
    reason: str = ""
    partition: str = ""
    nodes: str = ""
    exit_code: int = 0
    signal: int = 0
    code: int | None = None
    has_begun: bool = True
    has_moved: bool = False
    elapsed_s: float | None = None
    time_limit_s: int | None = None
    max_rss_bytes: int | None = None
    memory_bytes: int | None = None
    cancelled_by: int | None = None
    message: str = ""
    last_lines: tuple[str, ...] = ()
    next_words: str = ""
    is_retried: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """A failure in words.

    Attributes:
        category: Class of the failure, as ``watershed retry --only`` takes it.
        summary: A few words.
        detail: What happened, with the numbers; sentences.
        resolution: What to change, and which command to run then; sentences.
        last_lines: Last lines of the output, redacted.
    """

    category: str
    summary: str
    detail: str
    resolution: str
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The whole as a paragraph, and the lines below it."""
        first = f"{self.summary[0].upper()}{self.summary[1:]}. {self.detail} {self.resolution}"
        return "\n".join([first, *(f"    {line}" for line in self.last_lines)])


def diagnose(case: Case) -> Diagnosis:
    """Explain a failure.

    Args:
        case: What is known of it.

    Returns:
        The explanation; without numbers that are not known.
    """
    summary, detail, resolution = _EXPLANATIONS[case.failure](case)
    if case.is_retried:
        resolution = "Nothing has to be done."
    after = f" It is {case.next_words}." if case.next_words else ""
    return Diagnosis(
        category=case.failure.value,
        summary=summary,
        detail=detail + after,
        resolution=resolution,
        last_lines=_shown(case.last_lines),
    )


def _shown(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the last lines without secrets, control characters and overlong ends."""
    text = redact("\n".join(lines))
    cut = [line.rstrip()[:_LONGEST_LINE] for line in plain(text).expandtabs(1).split("\n")]
    return tuple(line for line in cut if line)[-_MOST_LINES:]


_Words = tuple[str, str, str]


def _out_of_memory(case: Case) -> _Words:
    is_sure = case.state is SlurmState.OUT_OF_MEMORY or bool(case.message)
    detail = f"{_job(case)} ran out of memory"
    if case.max_rss_bytes is not None and case.memory_bytes is not None:
        detail += f": its peak was {_gib(case.max_rss_bytes)} of {_gib(case.memory_bytes)} GiB"
    elif case.memory_bytes is not None:
        detail += f"; it had {_gib(case.memory_bytes)} GiB on a node"
    elif case.max_rss_bytes is not None:
        detail += f"; its peak was {_gib(case.max_rss_bytes)} GiB"
    detail += "."
    if not is_sure:
        detail += f" Slurm says only {case.state}, but SIGKILL ended it, as the kernel does then."
    more = "launcher.memory"
    if case.memory_bytes:
        more += f" to {math.ceil(1.5 * case.memory_bytes / _GIB)}G"
    change = f"Set {more}" if case.memory_bytes else f"Set {more} (higher)"
    return (
        "out of memory" if is_sure else "probably out of memory",
        detail + _said(case),
        f"{change}, or make the model or the batch smaller; then run: watershed retry --only oom",
    )


def _time_limit(case: Case) -> _Words:
    detail = f"{_job(case)} was stopped at its time limit"
    if case.time_limit_s is not None and case.elapsed_s is not None:
        asked, ran = _time(case.time_limit_s), _time(case.elapsed_s)
        detail += f": it asked for {asked} and ran for {ran}"
    elif case.time_limit_s is not None:
        detail += f" of {_time(case.time_limit_s)}"
    if case.has_moved:
        return (
            "time limit reached",
            f"{detail}. What it computed is in its newest checkpoint.",
            "Continue from there with: watershed resume. With launcher.requeue: true it would go "
            "on by itself.",
        )
    return (
        "time limit reached without a checkpoint",
        f"{detail}. It saved no checkpoint, so another run of that length would not come further.",
        "Raise launcher.time_limit, or save more often (experiment.checkpoint_every) and earlier "
        "(launcher.signal_before_s); then run: watershed retry --only timeout",
    )


def _preempted(case: Case) -> _Words:
    where = f" in partition {case.partition}" if case.partition else ""
    return (
        "preempted",
        f"{_job(case)} had to make room{where} for a job of higher priority{_after(case)}.",
        "Continue with: watershed resume. With launcher.requeue: true it would go on by itself; a "
        "launcher.partition or launcher.qos that is not preempted costs fewer restarts.",
    )


def _node_failure(case: Case) -> _Words:
    node = case.nodes or "a node"
    return (
        "node lost",
        f"Slurm lost {node} under {_job(case, with_nodes=False)}{_after(case)}.",
        "The job is sound: run watershed retry --only node. To keep off the node for good, name it "
        "in launcher.exclude.",
    )


def _launch_failure(case: Case) -> _Words:
    again = "then run: watershed retry --only launch"
    if case.signal == OUTPUT_FAILED:
        return (
            "output file could not be opened",
            f"{_job(case)} ended at once (exit code 0:53): Slurm could not open its output file.",
            "See that the study's directory is there on the nodes too, on a file system that they "
            f"share, and writable; {again}",
        )
    how = f" (code {case.exit_code})" if case.exit_code else ""
    why = _slurms_word(case)
    if case.exit_code in NOT_THERE:
        why = "a command is not there on the node, or cannot be run"
    return (
        "not started",
        f"{_job(case)} ended{how} before its program began: {why}.{_said(case)}",
        "Look at its last lines, and at launcher.modules, launcher.setup and launcher.container, "
        f"which run before it; {again}",
    )


def _cancelled(case: Case) -> _Words:
    by = "" if case.cancelled_by is not None else " (or the cluster does not tell by whom)"
    return (
        "cancelled",
        f"{_job(case)} was cancelled by you{by}{_after(case)}.",
        "Continue with: watershed resume",
    )


def _cancelled_by_admin(case: Case) -> _Words:
    user = "root" if not case.cancelled_by else f"user {case.cancelled_by}"
    return (
        "cancelled by an administrator",
        f"{_job(case)} was cancelled by {user}{_after(case)}, perhaps by a rule of the cluster "
        f"such as a dependency that can never be met.",
        "Ask the cluster's support why; then run: watershed retry --only admin",
    )


def _deadline(case: Case) -> _Words:
    return (
        "deadline passed",
        f"{_job(case)} could not end before the deadline that was set for it.",
        "Remove or move --deadline in launcher.extra, or shorten launcher.time_limit; then run: "
        "watershed retry --only deadline",
    )


def _application_error(case: Case) -> _Words:
    if not case.has_begun:
        return _script_error(case)
    code = case.exit_code if case.code is None else case.code
    how = f"ended with exit code {code}"
    if code >= FIRST_SIGNAL_CODE:
        how = f"was killed by {_signal_name(code - FIRST_SIGNAL_CODE)} (exit code {code})"
    return (
        "the program failed",
        f"{_job(case)} {how}{_after(case)}.{_said(case)}",
        "Correct what its last lines complain of; then run: watershed retry --only application",
    )


def _script_error(case: Case) -> _Words:
    what = "one of its lines has failed"
    if case.exit_code in NOT_THERE:
        what = "a command in it is not there on the node, or cannot be run"
    how = f" with code {case.exit_code}" if case.exit_code else ""
    return (
        "the job script failed",
        f"{_job(case)} ended{how} before its program began: {what}.{_said(case, who='its output')}",
        "Check launcher.python, launcher.modules, launcher.setup and launcher.container against "
        "what the nodes have; then run: watershed retry --only application",
    )


_REFUSALS = (
    ("partition", "launcher.partition"),
    ("account", "launcher.account"),
    ("qos", "launcher.qos"),
    ("memory specification", "launcher.memory"),
    ("feature", "launcher.constraint"),
    ("time limit", "launcher.time_limit"),
    ("gres", "launcher.gpus_per_node, launcher.gpu_type and launcher.gpu_option"),
    ("reservation", "launcher.reservation"),
    ("dependency", "launcher.dependency"),
    ("license", "launcher.licenses"),
    ("node name", "launcher.nodelist and launcher.exclude"),
    (
        "node configuration",
        "launcher.nodes, launcher.cpus_per_task, launcher.gpus_per_node, launcher.memory and "
        "launcher.constraint against what sinfo shows",
    ),
    ("node count", "launcher.nodes"),
)


def _refused(case: Case) -> _Words:
    words = case.message.lower()
    fields = [field for word, field in _REFUSALS if word in words]
    check = ", ".join(fields) if fields else "the launcher's fields"
    said = _said(case, who="sbatch") or " It did not say why."
    return (
        "refused by Slurm",
        f"Slurm did not take the job.{said}",
        f"Check {check}; then run: watershed retry --only refused",
    )


def _rank_lost(case: Case) -> _Words:
    return (
        "a rank was lost",
        f"{_job(case)} lost one of its ranks{_after(case)}, and ended the others.{_said(case)}",
        "The training is sound: run watershed retry --only rank_lost. If it is always the same "
        "node, name it in launcher.exclude; if memory may be short, raise launcher.memory.",
    )


def _lost(case: Case) -> _Words:
    again = "Run: watershed retry --only lost"
    if case.state is SlurmState.ABSENT and not case.has_begun:
        return (
            "forgotten by Slurm",
            f"{_job(case)} had been accepted, but Slurm does not know it any more, and it never "
            "began. A controller that is killed forgets the jobs of its last seconds.",
            again,
        )
    is_absent = case.state is SlurmState.ABSENT
    known = "Slurm does not know it any more" if is_absent else f"Slurm says only {case.state}"
    return (
        "ended without a word",
        f"{_job(case)} is gone{_after(case)}: {known}, and it did not say how it ended. Somebody "
        "may have killed it, its disk may have been full, or the controller was restarted.",
        again,
    )


_EXPLANATIONS: Mapping[FailureClass, Callable[[Case], _Words]] = {
    FailureClass.OUT_OF_MEMORY: _out_of_memory,
    FailureClass.TIME_LIMIT: _time_limit,
    FailureClass.PREEMPTED: _preempted,
    FailureClass.NODE_FAILURE: _node_failure,
    FailureClass.LAUNCH_FAILURE: _launch_failure,
    FailureClass.CANCELLED_BY_USER: _cancelled,
    FailureClass.CANCELLED_BY_ADMIN: _cancelled_by_admin,
    FailureClass.DEADLINE: _deadline,
    FailureClass.APPLICATION_ERROR: _application_error,
    FailureClass.SUBMIT_REFUSED: _refused,
    FailureClass.RANK_LOST: _rank_lost,
    FailureClass.LOST: _lost,
}


def _job(case: Case, *, with_nodes: bool = True) -> str:
    at_start = f"Job {case.slurm_job}" if case.slurm_job else "The job"
    name = at_start if with_nodes else at_start[0].lower() + at_start[1:]
    return f"{name} on {case.nodes}" if with_nodes and case.nodes else name


def _after(case: Case) -> str:
    return "" if case.elapsed_s is None else f" after {_time(case.elapsed_s)}"


def _said(case: Case, who: str = "the program") -> str:
    words = " ".join(plain(redact(case.message)).split())[:_LONGEST_LINE]
    return f' {who[0].upper()}{who[1:]} says: "{words}".' if words else ""


def _slurms_word(case: Case) -> str:
    reason = f" ({case.reason})" if case.reason and case.reason != "None" else ""
    return f"Slurm says {case.state}{reason}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"


def _time(seconds: float) -> str:
    """Write a time as Slurm does: ``1:00:07``, ``2-03:00:00``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}-{h:02}:{m:02}:{s:02}" if days else f"{h}:{m:02}:{s:02}"
