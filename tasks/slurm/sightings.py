"""What the commands of Slurm tell of jobs and partitions, as values, and who asks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.slurm.states import SlurmState

HELD_AFTER_REQUEUE = "BeginTime"
"""Slurm's reason while it holds a job that it has queued again, or one with ``--begin``."""
NO_FITTING_NODES = "BadConstraints"
"""Slurm's reason where it holds a job for good, as no nodes that there are may run it."""
OUTPUT_FAILED = 53
"""Slurm's 0:53, a signal: the output file of the batch script could not be opened."""


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, in the listing of ``squeue``.

    Attributes:
        slurm_job: Its id: ``12``, or ``12_3`` for task 3 of an array; tasks that wait together in
            one line of the listing are listed one by one. But if a user has cancelled the array by
            a filter (``scancel --me``), all tasks that had not started are one value, ``12``.
        name: Name of the job.
        state: Its state.
        reason: Slurm's word for why it is not running; empty if it is.
        restarts: How often it was requeued.
        partition: Where it waits or runs.
        nodes: Nodes that it runs on, as Slurm abbreviates them; empty while it waits.
    """

    slurm_job: str
    name: str
    state: SlurmState
    reason: str = ""
    restarts: int = 0
    partition: str = ""
    nodes: str = ""


@dataclass(frozen=True)
class Accounted:
    """One incarnation of a job, or of a task of an array, in the accounting.

    Only a final state proves anything. A job that a killed controller has forgotten stays PENDING
    or RUNNING here for ever, maybe under the name ``allocation``.

    Attributes:
        slurm_job: ``12``, or ``12_3`` for task 3 of an array.
        name: Name of the job.
        state: Its state.
        exit_code: Exit code of the batch script.
        signal: Signal that it died of; 0 for none.
        cancelled_by: User id of who cancelled it; None if nobody did, or it is not told.
        partition: Where it ran.
        nodes: Nodes, as Slurm abbreviates them; empty if it never ran.
        num_nodes: How many.
        num_cpus: Allocated CPUs.
        num_gpus: Allocated GPUs.
        submitted_s: Unix time; None if it is not told. So for the other three times.
        eligible_s: When nothing but resources was missing.
        started_s: When it started.
        ended_s: When it ended.
        elapsed_s: From start to end, suspended time left out.
        cpu_s: CPU time of all its processes; None if it is not told.
        max_rss_bytes: Largest resident set of a task; None if it is not told.
        energy_j: Joules; None if it is not measured.
    """

    slurm_job: str
    name: str
    state: SlurmState
    exit_code: int = 0
    signal: int = 0
    cancelled_by: int | None = None
    partition: str = ""
    nodes: str = ""
    num_nodes: int = 0
    num_cpus: int = 0
    num_gpus: int = 0
    submitted_s: int | None = None
    eligible_s: int | None = None
    started_s: int | None = None
    ended_s: int | None = None
    elapsed_s: int = 0
    cpu_s: float | None = None
    max_rss_bytes: int | None = None
    energy_j: int | None = None


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster.

    Attributes:
        name: Its name.
        is_default: Whether jobs go there that name none.
        is_up: Whether it takes jobs.
        time_limit_s: Longest job; None for no limit.
        num_nodes: Nodes in it.
        cpus_per_node: Most CPUs of a node.
        memory_mb_per_node: Most memory of a node, MiB.
        gpus_per_node: Most GPUs of a node.
        max_nodes: Most nodes of a job; None for no limit.
    """

    name: str
    is_default: bool = False
    is_up: bool = True
    time_limit_s: int | None = None
    num_nodes: int = 0
    cpus_per_node: int = 0
    memory_mb_per_node: int = 0
    gpus_per_node: int = 0
    max_nodes: int | None = None


class Slurm(Protocol):
    """The commands of Slurm. Every call is one process; each has a time-out."""

    def submit(self, script: Path) -> str:
        """Submit a script by ``sbatch --parsable``, in its own directory.

        Args:
            script: The batch script.

        Returns:
            Slurm's id of the job, without the name of the cluster.

        Raises:
            SlurmRefused: Slurm does not take it, in its own words.
            SlurmBusy: It does not take it now.
            SlurmUnreachable: No answer; the job may have been accepted.
            SlurmMissing: There is no sbatch.
        """
        ...

    def queue(self) -> list[Queued]:
        """List this user's jobs, ended ones that the controller still knows included.

        Raises:
            SlurmUnreachable: No answer, or an answer that is cut off.
            SlurmMissing: There is no squeue.
        """
        ...

    def accounting(
        self, slurm_jobs: Sequence[str] = (), *, name: str | None = None, since_s: int = 0
    ) -> list[Accounted]:
        """Ask the accounting for jobs, by id or by name: every incarnation, oldest first.

        By name it does not tell of jobs that have never been eligible to run, such as tasks of an
        array that wait for others, or jobs that were held until they were cancelled.

        Args:
            slurm_jobs: Ids of jobs or of whole arrays.
            name: Name of jobs of this user; instead of ids.
            since_s: Unix time; jobs that ended before are left out. Asked by name it must be given.

        Raises:
            SlurmUnreachable: No answer, or an answer that is cut off.
            NoAccounting: The cluster has none.
            SlurmMissing: There is no sacct.
        """
        ...

    def cancel(self, slurm_jobs: Sequence[str]) -> None:
        """Cancel jobs or tasks, in one call; ids that Slurm no longer knows are no error.

        Raises:
            SlurmUnreachable: No answer.
            SlurmMissing: There is no scancel.
        """
        ...

    def start_now(self, slurm_job: str, *, exclude: str = "") -> None:
        """Take back the 121 s for which Slurm holds a requeued job.

        Args:
            slurm_job: The job, or task; it waits.
            exclude: All nodes that it must not have from now on; empty for no change.

        Raises:
            SlurmRefused: Slurm does not do it.
            SlurmUnreachable: No answer.
            SlurmMissing: There is no scontrol.
        """
        ...

    def is_up(self) -> bool:
        """Say whether the controller answers (``scontrol ping``); False also without scontrol."""
        ...

    def nodes(self) -> dict[str, frozenset[str]]:
        """Return partition -> its nodes, hidden ones too.

        Raises:
            SlurmUnreachable: No answer, or one that cannot be read.
            SlurmMissing: There is no sinfo.
        """
        ...

    def partitions(self) -> list[Partition]:
        """List the partitions (``sinfo``), hidden ones too.

        Raises:
            SlurmUnreachable: No answer.
            SlurmMissing: There is no sinfo.
        """
        ...

    def max_array_size(self) -> int:
        """Return MaxArraySize: ids of tasks are below it.

        Raises:
            SlurmUnreachable: No answer.
            SlurmMissing: There is no scontrol.
        """
        ...

    def cluster(self) -> str:
        """Return the cluster's name.

        Raises:
            SlurmUnreachable: No answer.
            SlurmMissing: There is no scontrol.
        """
        ...
