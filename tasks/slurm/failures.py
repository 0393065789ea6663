"""What follows each class of failure: a table, and a pure function that reads it.

The policies speak of *submissions* (calls of sbatch). Where a job may be requeued, Slurm itself
queues it again after a preemption or a lost node, and the job asks for it at its time limit; what
ends here are the cases where that was switched off, refused, or did not happen. A node that was
lost counts in both cases (see ``losing``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tasks.slurm.states import FailureClass


class Resubmit(StrEnum):
    """Whether a run is submitted again after a failure."""

    NEVER = "never"
    IF_MOVED = "if it moved on"
    """If its newest checkpoint is newer than at its start, and ``launcher.requeue`` allows it."""
    IF_ALLOWED = "for ever"
    """As often as it takes, if ``launcher.requeue`` allows it."""
    BOUNDED = "max_retries times"
    """As often in a row as ``launcher.max_retries`` says; one that moved on begins a new row."""


@dataclass(frozen=True)
class Policy:
    """What to do after one class of failure.

    Attributes:
        resubmit: Whether the run is submitted again.
        because: Why so, for people: a clause.
        delay_s: Wait before the first retry of a row; it doubles with each.
        excludes_node: Whether the retry leaves out the node to blame.
    """

    resubmit: Resubmit
    because: str
    delay_s: float = 0.0
    excludes_node: bool = False


_F = FailureClass
POLICIES: Mapping[FailureClass, Policy] = {
    _F.OUT_OF_MEMORY: Policy(Resubmit.NEVER, "with the same memory it would end the same way"),
    _F.TIME_LIMIT: Policy(Resubmit.IF_MOVED, "it continues from its newest checkpoint"),
    _F.PREEMPTED: Policy(Resubmit.IF_ALLOWED, "others needed the node, the job is sound", 5.0),
    _F.NODE_FAILURE: Policy(
        Resubmit.BOUNDED, "a node was lost, the job is sound", 15.0, excludes_node=True
    ),
    _F.LAUNCH_FAILURE: Policy(
        Resubmit.BOUNDED, "it never began, which may be its node's fault", 15.0, excludes_node=True
    ),
    _F.CANCELLED_BY_USER: Policy(Resubmit.NEVER, "you cancelled it"),
    _F.CANCELLED_BY_ADMIN: Policy(Resubmit.NEVER, "an administrator had a reason to cancel it"),
    _F.DEADLINE: Policy(Resubmit.NEVER, "its deadline has passed"),
    _F.APPLICATION_ERROR: Policy(Resubmit.NEVER, "the same program would fail the same way"),
    _F.SUBMIT_REFUSED: Policy(Resubmit.NEVER, "Slurm would refuse it again"),
    _F.RANK_LOST: Policy(Resubmit.BOUNDED, "a rank was lost, the training is sound", 5.0),
    _F.LOST: Policy(Resubmit.BOUNDED, "nobody knows what ended it", 15.0),
}
_LONGEST_DELAY_S = 600.0
_SEVERAL = set("[,")


@dataclass(frozen=True)
class Ended:
    """A submission that is over and did not finish.

    Attributes:
        failure: Why.
        node: Where it ran, as Slurm writes it; of several nodes, none can be blamed.
        moved: Whether it left a newer checkpoint than it found.
    """

    failure: FailureClass
    node: str = ""
    moved: bool = False


@dataclass(frozen=True)
class Retry:
    """Submit the run again.

    Attributes:
        delay_s: After so many seconds.
        exclude: Nodes to leave out, on top of the user's own ``exclude``.
        words: Why, for people: a sentence.
        count: Which retry of how many, for people; empty if they are not counted.
    """

    delay_s: float
    exclude: tuple[str, ...]
    words: str
    count: str = ""


@dataclass(frozen=True)
class GiveUp:
    """Leave the run as it is, until the user does something about it.

    Attributes:
        words: Why, for people: a sentence.
    """

    words: str


def next_step(history: Sequence[Ended], *, max_retries: int, requeue: bool) -> Retry | GiveUp:
    """Say what follows the newest of a run's failures.

    Args:
        history: Submissions that did not finish since the user last asked for the run, oldest
            first; the last has just ended.
        max_retries: The launcher's ``max_retries``.
        requeue: The launcher's ``requeue``: whether a job that was stopped may be queued again.

    Returns:
        Another submission, or none.

    Raises:
        ValueError: The history is empty.
    """
    if not history:
        raise ValueError("nothing has failed yet; the history must not be empty")
    last = history[-1]
    policy = POLICIES[last.failure]
    blamed = _blamed(history)
    if last.failure is FailureClass.SUBMIT_REFUSED and blamed:
        left_out = ",".join(blamed)
        return Retry(0.0, (), f"submitted again with {left_out}, without which Slurm refused it")
    row = _row(history)
    refusal = _refusal(policy, last, row, max_retries=max_retries, requeue=requeue)
    if refusal:
        return GiveUp(refusal)
    count = f"retry {row} of {max_retries}" if policy.resubmit is Resubmit.BOUNDED else ""
    return Retry(
        # A row of thousands of preemptions must not overflow a float.
        delay_s=min(_LONGEST_DELAY_S, policy.delay_s * 2.0 ** min(row - 1, 16)),
        exclude=blamed,
        words=f"submitted again, as {policy.because}" + (f" ({count})" if count else ""),
        count=count,
    )


def is_missing_everywhere(history: Sequence[Ended], node: str) -> bool:
    """Say whether a command that is missing on a node is the script's fault, and not the node's.

    A node that has lost a mount ends every job within a second, and so attracts them all; a Python
    that is nowhere would end the same job on every node.

    Args:
        history: Earlier submissions that did not finish.
        node: Where it has just been missing.

    Returns:
        Whether the launch has failed on another node before.
    """
    failed = {e.node for e in history if e.failure is FailureClass.LAUNCH_FAILURE and e.node}
    return bool(node) and bool(failed - {node})


def _refusal(policy: Policy, last: Ended, row: int, *, max_retries: int, requeue: bool) -> str:
    """Say why the run is not submitted again; empty if it is."""
    obeys_requeue = {Resubmit.IF_MOVED, Resubmit.IF_ALLOWED}
    if policy.resubmit is Resubmit.NEVER:
        return f"not submitted again, as {policy.because}"
    if policy.resubmit in obeys_requeue and not requeue:
        return "not submitted again, as launcher.requeue is false"
    if policy.resubmit is Resubmit.IF_MOVED and not last.moved:
        return "not submitted again, as it saved no checkpoint in all of its time"
    if policy.resubmit is Resubmit.BOUNDED and row > max_retries:
        return f"not submitted again, as launcher.max_retries is {max_retries}"
    return ""


def _row(history: Sequence[Ended]) -> int:
    """Count the failures of the last one's policy, back to the newest submission that moved on.

    Those of other policies, a preemption between two lost nodes, do not break the row.
    """
    policy = POLICIES[history[-1].failure].resubmit
    count = 0
    for ended in reversed(history):
        count += POLICIES[ended.failure].resubmit is policy
        if ended.moved:
            break
    return count


def _blamed(history: Sequence[Ended]) -> tuple[str, ...]:
    """Return the nodes to leave out: those blamed since Slurm last refused for want of them."""
    nodes: list[str] = []
    for age, ended in enumerate(reversed(history)):
        if ended.failure is FailureClass.SUBMIT_REFUSED and age > 0:
            break
        is_one = bool(ended.node) and not _SEVERAL & set(ended.node)
        if is_one and POLICIES[ended.failure].excludes_node:
            nodes.append(ended.node)
    return tuple(dict.fromkeys(reversed(nodes)))
