"""Failures of jobs on this machine explained in words; see ``diagnosis`` for those of Slurm."""

from collections.abc import Mapping

from tasks.runtime.errors import Reason
from tasks.runtime.plain_text import plain
from tasks.slurm.diagnosis import Diagnosis
from tasks.slurm.redaction import redact

_AGAIN = "then run it again; it goes on from its last checkpoint"
# The reason in result.json -> what happened in a few words, what to do.
_REASONS: Mapping[str, tuple[str, str]] = {
    Reason.MEMORY: (
        "out of memory",
        f"Run fewer jobs at a time (num_parallel), or a smaller model or batch; {_AGAIN}.",
    ),
    Reason.KILLED: (
        "killed from outside",
        "The system kills what uses too much memory (dmesg tells): run fewer jobs at a time "
        f"(num_parallel), or a smaller model or batch; {_AGAIN}.",
    ),
    Reason.STORAGE: ("a file could not be written", f"Free some space or quota; {_AGAIN}."),
    Reason.DIVERGED: (
        "the training diverged",
        "Lower the learning rates in a new study; the same one would end the same way.",
    ),
    Reason.DATA: ("the data cannot be used", f"Look at its path and content; {_AGAIN}."),
    Reason.CHECKPOINT: (
        "a checkpoint cannot be used",
        "Do what its message says; a new study begins without checkpoints.",
    ),
    Reason.CONFIGURATION: (
        "the configuration cannot be run",
        "Correct it in a new study.",
    ),
    Reason.RANK_LOST: ("a rank was lost", f"Look at the last lines of its output; {_AGAIN}."),
    Reason.INTERNAL: (
        "the program failed",
        f"Correct what the last lines of its output complain of; {_AGAIN}.",
    ),
    Reason.ARRIVALS: (
        "its arrivals cannot be had",
        "Change the arrivals as its message says, in a new study.",
    ),
    Reason.DEVICE: (
        "a GPU is missing",
        f"Run it where there are GPUs enough, {_AGAIN}; or set device: cpu in a new study.",
    ),
    Reason.ENGINE: (
        "its engine cannot run here",
        f"Install what its message names, {_AGAIN}; or choose another engine or transport in a new "
        "study.",
    ),
    Reason.JOURNAL: (
        "its journal was cut or replaced",
        "Put metrics.jsonl back if there is a copy; else begin a new study.",
    ),
    Reason.PROCESS: (
        "the process of the flow run failed",
        "Correct what the last lines of its output complain of; then run the flow again.",
    ),
    Reason.RANKS: (
        "its ranks could not begin together",
        f"Correct how they are started, or the network, as its message says; {_AGAIN}.",
    ),
    Reason.RETURNS: (
        "returns that were taken are gone or damaged",
        "Put the files back if there is a copy; else begin a new study.",
    ),
    Reason.SERVER: (
        "the server of this worker has failed",
        f"Explain the server's point (watershed why) and mend that; {_AGAIN}.",
    ),
    Reason.TRACE: (
        "a trace of arrivals cannot be used",
        "Do what its message says about the file, in a new study.",
    ),
}
_OTHER = ("it failed", f"Do what its message says; {_AGAIN}.")


def diagnose_local(reason: str, message: str) -> Diagnosis:
    """Explain the failure of a job on this machine.

    Args:
        reason: The reason in its ``result.json``, a ``Reason`` or an earlier version's.
        message: The message there.

    Returns:
        The explanation.
    """
    summary, resolution = _REASONS.get(reason, _OTHER)
    words = " ".join(plain(redact(message)).split()) or "It left no word."
    return Diagnosis(
        category=reason or "unknown",
        summary=summary,
        detail=f"{words[0].upper()}{words[1:]}{'' if words.endswith('.') else '.'}",
        resolution=resolution,
    )
