"""Jobs of the fake Slurm: what was submitted, each of its incarnations, what they do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.slurm.states import SlurmState


@dataclass(frozen=True)
class Request:
    """What a batch script asks for.

    Attributes:
        script: The script.
        name: Name of the job.
        partition: Where it is to run.
        directory: Where it starts.
        qos: Its quality of service; empty for the usual one.
        nodes: How many.
        cpus: CPUs of each.
        gpus: GPUs of each.
        time_limit_s: Wall time.
        tasks: Ids of the tasks of an array; empty for a single job.
        throttle: Most tasks that run at a time.
        exclude: Nodes that it must not have.
        requeue: Whether it is queued again when it loses its node.
        signal_before_s: When the batch shell is sent SIGUSR1, before the limit; 0 for never.
        hold: Whether it waits to be released.
        output: File for its output, with Slurm's patterns.
        text: The script as it was when it was submitted.
        environment: Of who submitted it.
        is_mine: False for a job of another user.
    """

    script: Path
    name: str
    partition: str
    directory: Path
    qos: str = ""
    nodes: int = 1
    cpus: int = 1
    gpus: int = 0
    time_limit_s: int = 3600
    tasks: Sequence[int] = ()
    throttle: int = 0
    exclude: frozenset[str] = frozenset()
    requeue: bool = True
    signal_before_s: int = 0
    hold: bool = False
    output: str = "slurm-%j.out"
    text: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    is_mine: bool = True


@dataclass(frozen=True)
class Work:
    """What one incarnation of a job does if it is let.

    Attributes:
        duration_s: How long it runs.
        exit_code: With what it ends.
        signal: Signal that its batch script dies of instead; 0 for none.
        ends_as: State that Slurm gives it, if another than follows from these: OUT_OF_MEMORY, ...
        saves_in_s: How soon it ends with 143 when it is asked to stop; None if it is deaf.
        moves_on: Whether it has saved a newer checkpoint by then. If not, it does not ask to be
            queued again at its time limit.
    """

    duration_s: float = 60.0
    exit_code: int = 0
    signal: int = 0
    ends_as: SlurmState | None = None
    saves_in_s: float | None = 1.0
    moves_on: bool = True


@dataclass(eq=False)
class Incarnation:
    """One life of a job or of a task of an array, from the queue to its end.

    Attributes:
        job: Number of the job or array.
        task: Task of the array; None for a single job.
        request: What was asked for.
        restarts: How many lives it had before.
        submitted_s: When it was queued.
        eligible_s: From when nothing but resources is missing; None while it is held.
        state: As squeue has it.
        reason: As squeue has it.
        is_split: Whether it has left the one record in which the tasks of an array wait.
        started_s: When it started.
        ended_s: When it ended.
        nodes: Where it ran.
        exit_code: Exit code of the batch script.
        signal: Signal that it died of.
        work: What it does; None until it starts.
        stops_as: State that it will have once it has stopped; None while nobody stops it.
        requeues: Whether it is queued again at its end, whatever that is.
        is_lost: Whether a crash of the controller has made it forgotten.
        is_alive: Whether its processes run; after a cut of the network longer than Slurm thinks.
    """

    job: int
    task: int | None
    request: Request
    submitted_s: float
    restarts: int = 0
    eligible_s: float | None = None
    state: SlurmState = SlurmState.PENDING
    reason: str = "None"
    is_split: bool = False
    started_s: float | None = None
    ended_s: float | None = None
    nodes: tuple[str, ...] = ()
    exit_code: int = 0
    signal: int = 0
    work: Work | None = None
    stops_as: SlurmState | None = None
    requeues: bool = False
    is_lost: bool = False
    is_alive: bool = False

    @property
    def slurm_job(self) -> str:
        """Slurm's id: ``12``, or ``12_3``."""
        return str(self.job) if self.task is None else f"{self.job}_{self.task}"

    @property
    def is_running(self) -> bool:
        """Whether it holds nodes, as far as Slurm knows."""
        return self.started_s is not None and self.ended_s is None and not self.is_lost

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state is SlurmState.PENDING and not self.is_lost


class Node(Protocol):
    """What happens on the nodes; the fake tells it of every change.

    Attributes:
        beat_every_s: How often it wants to be asked to beat; 0 for never.
    """

    beat_every_s: float

    def begin(self, run: Incarnation, now_s: float) -> Work:
        """Start the batch script of an incarnation.

        Returns:
            What it is going to do.
        """
        ...

    def beat(self, now_s: float) -> None:
        """Let all jobs that are alive renew their heartbeats."""
        ...

    def signal(self, run: Incarnation, name: str, now_s: float) -> None:
        """Send the batch script a signal that it may heed: SIGUSR1, SIGTERM."""
        ...

    def end(self, run: Incarnation, now_s: float) -> None:
        """End as the incarnation's ``exit_code`` and ``requeues`` say."""
        ...

    def vanish(self, run: Incarnation, now_s: float) -> None:
        """Kill all its processes: SIGKILL, or a power cut."""
        ...


class IdleNode:
    """Nodes on which jobs leave no files.

    Args:
        work: What a job does; default: a minute, then success.
    """

    beat_every_s = 0.0

    def __init__(self, work: Callable[[Incarnation], Work] | None = None) -> None:
        self._work = work

    def begin(self, run: Incarnation, now_s: float) -> Work:  # noqa: ARG002
        """Start."""
        return self._work(run) if self._work else Work()

    def beat(self, now_s: float) -> None:
        """Do nothing."""

    def signal(self, run: Incarnation, name: str, now_s: float) -> None:
        """Do nothing."""

    def end(self, run: Incarnation, now_s: float) -> None:
        """Do nothing."""

    def vanish(self, run: Incarnation, now_s: float) -> None:
        """Do nothing."""
