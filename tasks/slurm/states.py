"""States of a job, as Slurm names them, and what the node itself has left in the run directory."""

from enum import StrEnum

from tasks.runtime.errors import Reason


class SlurmState(StrEnum):
    """A job's state in ``squeue`` and ``sacct`` (Slurm 22.05 to 24.11), and two of our own."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    POWER_UP_NODE = "POWER_UP_NODE"
    PREEMPTED = "PREEMPTED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    TIMEOUT = "TIMEOUT"

    ABSENT = "absent"
    """A healthy controller and, where there is one, the accounting have been asked twice, and do
    not know the job."""
    UNKNOWN = "unknown"
    """Nobody has answered, or what was answered cannot be read. Never a reason for anything."""

    @property
    def is_final(self) -> bool:
        """Whether Slurm has done with the job.

        So say its base states alone. The others that it shows are flags beside a base state
        (LAUNCH_FAILED and RECONFIG_FAIL too: such a job is queued again), which is shown by itself
        later.
        """
        return self in _FINAL


_FINAL = frozenset(
    {
        SlurmState.BOOT_FAIL,
        SlurmState.CANCELLED,
        SlurmState.COMPLETED,
        SlurmState.DEADLINE,
        SlurmState.FAILED,
        SlurmState.NODE_FAIL,
        SlurmState.OUT_OF_MEMORY,
        SlurmState.PREEMPTED,
        SlurmState.TIMEOUT,
    }
)


class Evidence(StrEnum):
    """What the newest attempt of a submission has left in the run directory."""

    NONE = "none"
    """No attempt of this submission has begun."""
    ALIVE = "alive"
    """Begun, and its heartbeat is fresh."""
    SILENT = "silent"
    """Begun, no exit, and its heartbeat is old: a node cut off, a power cut, SIGKILL."""
    FINISHED = "finished"
    """exit.json: code 0."""
    INTERRUPTED = "interrupted"
    """exit.json: code 143, stopped on a signal, or 75, overtaken by a newer attempt: resumable."""
    REQUEUED = "requeued"
    """exit.json: code 143, and the node has asked Slurm to queue the job again."""
    STUCK = "stuck"
    """exit.json: code 143, or 75, at the time limit, and no newer checkpoint than at the start."""
    FAILED = "failed"
    """exit.json: a code from 1 to 127 but 75; result.json says why where the engine could."""
    KILLED = "killed"
    """exit.json: 128 + a signal that nobody was to expect; the engine could not say why."""
    UNREADABLE = "unreadable"
    """The file system does not answer. Never a reason for anything."""


class FailureClass(StrEnum):
    """Why a submission did not end well; each has a policy, see ``failures``."""

    OUT_OF_MEMORY = "oom"
    TIME_LIMIT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node"
    LAUNCH_FAILURE = "launch"
    CANCELLED_BY_USER = "cancelled"
    CANCELLED_BY_ADMIN = "admin"
    DEADLINE = "deadline"
    APPLICATION_ERROR = "application"
    SUBMIT_REFUSED = "refused"
    RANK_LOST = Reason.RANK_LOST.value
    """A training has lost one of its ranks, and says so."""
    LOST = "lost"
    """Slurm knows nothing of a job that it had accepted, and the node has left no exit."""
