"""Failures of jobs on this machine explained in words; see ``diagnosis`` for those of Slurm."""

from collections.abc import Mapping

from tasks.slurm.diagnosis import Diagnosis
from tasks.slurm.redaction import redact

_AGAIN = "then run it again; it goes on from its last checkpoint"
# The reason in result.json -> what happened in a few words, what to do.
_REASONS: Mapping[str, tuple[str, str]] = {
    "memory": (
        "out of memory",
        f"Run fewer jobs at a time (num_parallel), or a smaller model or batch; {_AGAIN}.",
    ),
    "killed": (
        "killed from outside",
        "The system kills what uses too much memory (dmesg tells): run fewer jobs at a time "
        f"(num_parallel), or a smaller model or batch; {_AGAIN}.",
    ),
    "storage": ("a file could not be written", f"Free some space or quota; {_AGAIN}."),
    "diverged": (
        "the training diverged",
        "Lower the learning rates in a new study; the same one would end the same way.",
    ),
    "data": ("the data cannot be used", f"Look at its path and content; {_AGAIN}."),
    "checkpoint": (
        "a checkpoint cannot be used",
        "Do what its message says; a new study begins without checkpoints.",
    ),
    "configuration": (
        "the configuration cannot be run",
        "Correct it in a new study.",
    ),
    "rank_lost": ("a rank was lost", f"Look at the last lines of its output; {_AGAIN}."),
    "internal": (
        "the program failed",
        f"Correct what the last lines of its output complain of; {_AGAIN}.",
    ),
}
_OTHER = ("it failed", f"Do what its message says; {_AGAIN}.")


def diagnose_local(reason: str, message: str) -> Diagnosis:
    """Explain the failure of a job on this machine.

    Args:
        reason: The reason in its ``result.json``.
        message: The message there.

    Returns:
        The explanation.
    """
    summary, resolution = _REASONS.get(reason, _OTHER)
    words = " ".join(redact(message).split()) or "It left no word."
    return Diagnosis(
        category=reason or "unknown",
        summary=summary,
        detail=f"{words[0].upper()}{words[1:]}{'' if words.endswith('.') else '.'}",
        resolution=resolution,
    )
