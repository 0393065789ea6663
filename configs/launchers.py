"""Where the jobs of a study run: on this machine, or on a Slurm cluster.

Every value ends up in a batch script as one quoted word. What is read there as it stands, by the
shell or by sbatch, is in ``setup`` and in ``extra`` alone.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from configs.base import Fault, Record, Whole, raise_faults, tagged_by
from configs.scripts import (
    ModuleNames,
    SetupLines,
    VariableValue,
    Word,
    Words,
    environment_faults,
    option_fault,
    refused,
    secret_fault,
)

_MOST_MINUTES = 365 * 24 * 60
_LEAST_SIGNAL_S = 30
_LEAST_WORK_S = 60
"""Between start and warning, which comes up to 30 s early."""
_TIME = re.compile(
    r"(?:(?P<days>\d{1,3})-)?(?P<first>\d{1,5})(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?"
)


def time_limit_s(text: str) -> int:
    """Return the seconds of a time as Slurm writes it.

    Args:
        text: ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
            ``days-hours:minutes`` or ``days-hours:minutes:seconds``.

    Returns:
        Seconds, from 1 on.

    Raises:
        ValueError: The text is no such time, or it is zero.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time; write minutes, hours:minutes:seconds or days-hours")
    first, second, third = (int(match[name] or 0) for name in ("first", "second", "third"))
    if match["days"] is not None:
        total = int(match["days"]) * 86_400 + first * 3600 + second * 60 + third
    elif match["third"] is not None:
        total = first * 3600 + second * 60 + third
    else:
        total = first * 60 + second
    if not 1 <= total <= _MOST_MINUTES * 60:
        raise ValueError(f"{text!r} is no time from a second to a year")
    return total


def _quoted_time(value: object) -> object:
    # YAML reads 2:00:00 without quotes as 7200, and 1:00 as 60: a number may be anything.
    if isinstance(value, int):
        raise refused(f'{value} is a number, as YAML reads times; quote it, like "2:00:00"')
    return value


def _memory_text(value: object) -> object:
    """Take a number for MiB, as Slurm does."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else value


def _checked_time(text: str) -> str:
    try:
        time_limit_s(text)
    except ValueError as error:
        raise refused(str(error)) from error
    return text


TimeLimit = Annotated[str, BeforeValidator(_quoted_time), AfterValidator(_checked_time)]
Memory = Annotated[str, BeforeValidator(_memory_text), Field(pattern=r"^\d{1,9}[KMGT]?$")]


class Apptainer(Record):
    """Run the job inside an Apptainer (Singularity) image."""

    kind: Literal["apptainer"] = "apptainer"
    image: Word = Field(description="Image file or address.")
    python: Word = Field(default="python3", description="Python in the image.")
    binds: Words = Field(default=(), description="Paths to bind: SOURCE[:TARGET[:ro]].")
    flags: Words = Field(default=(), description="Further flags, such as --nv.")

    def texts(self) -> Iterator[tuple[str, str]]:
        """Find what is written into the script.

        Yields:
            Field, with its position in a list; text.
        """
        yield "image", self.image
        yield from _numbered("binds", self.binds)
        yield from _numbered("flags", self.flags)


class Pyxis(Record):
    """Run the job inside an image by Slurm's Pyxis plugin, through srun."""

    kind: Literal["pyxis"] = "pyxis"
    image: Word = Field(description="Image: --container-image.")
    python: Word = Field(default="python3", description="Python in the image.")
    mounts: Words = Field(default=(), description="--container-mounts.")
    flags: Words = Field(default=(), description="Further srun flags.")

    def texts(self) -> Iterator[tuple[str, str]]:
        """Find what is written into the script.

        Yields:
            Field, with its position in a list; text.
        """
        yield "image", self.image
        yield from _numbered("mounts", self.mounts)
        yield from _numbered("flags", self.flags)


def _numbered(name: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((f"{name}.{number}", text) for number, text in enumerate(texts))


Container = Annotated[
    Apptainer | Pyxis, Field(discriminator="kind"), tagged_by("kind", "apptainer")
]


class _SlurmWishes(Record):
    """What a job asks of Slurm beside its nodes and tasks."""

    partition: Word | None = Field(default=None, description="Partition, or several with commas.")
    account: Word | None = Field(default=None, description="Account to charge.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    constraint: Word | None = Field(default=None, description="Features that a node must have.")
    cpus_per_task: Whole = Field(default=1, ge=1, le=10_000, description="CPUs of each task.")
    gpus_per_node: Whole = Field(default=0, ge=0, le=1024, description="GPUs on each node.")
    gpu_type: Word | None = Field(default=None, description="Type of GPU, as the cluster names it.")
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        default="gpus-per-node", description="By which option of sbatch GPUs are asked for."
    )
    memory: Memory | None = Field(
        default=None, description="Memory of a node, such as 16G; 0 for all of it."
    )
    time_limit: TimeLimit = Field(
        default="1:00:00", description="Wall time: minutes, hours:minutes:seconds or days-hours."
    )
    exclusive: bool = Field(default=False, description="Share no node with other jobs.")
    nodelist: Word | None = Field(default=None, description="Nodes that it must have.")
    exclude: Word | None = Field(default=None, description="Nodes that it must not have.")
    reservation: Word | None = Field(default=None, description="Reservation.")
    licenses: Word | None = Field(default=None, description="Licences: NAME[:COUNT],...")
    dependency: Word | None = Field(default=None, description="Dependency: afterok:ID, ...")
    requeue: bool = Field(
        default=True, description="May Slurm, or the job at its time limit, put it back in queue."
    )
    signal_before_s: Whole = Field(
        default=120,
        ge=_LEAST_SIGNAL_S,
        le=65_535,
        description=(
            "Ask the job to save and stop so many seconds before its time limit; Slurm may be 30 s "
            "early, so the limit must be over 60 s longer."
        ),
    )
    mail_user: Word | None = Field(default=None, description="Address for Slurm's mails.")
    mail_type: Word | None = Field(default=None, description="When to mail: END, FAIL, ALL, ...")
    extra: Words = Field(
        default=(), description="Further options of sbatch, one each, such as --nice=100."
    )
    modules: ModuleNames = Field(default=(), description="Environment modules to load.")
    environment: dict[str, VariableValue] = Field(
        default={},
        description="Environment variables of the job. Not for secrets: they stand in job.sh.",
    )
    setup: SetupLines = Field(
        default=(), description="Lines of shell that run before the job, as they stand here."
    )
    container: Container | None = Field(default=None, description="Image to run in.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        raise_faults(type(self).__name__, list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        """Find what does not go together, and what must not stand in a script."""
        limit_s = time_limit_s(self.time_limit)
        if self.signal_before_s + _LEAST_WORK_S >= limit_s:
            yield self._signalled_at_start(limit_s)
        if self.gpu_type is not None and not self.gpus_per_node:
            message = f"{self.gpu_type!r} is asked for, but no GPU; set gpus_per_node"
            yield Fault(path="gpu_type", message=message, related=("gpus_per_node",))
        if self.mail_user is not None and self.mail_type is None:
            message = "set, but no mail is asked for; set mail_type, such as END,FAIL"
            yield Fault(path="mail_user", message=message, related=("mail_type",))
        yield from environment_faults(self.environment)
        for number, line in enumerate(self.setup):
            if message := secret_fault(line):
                yield Fault(path=f"setup.{number}", message=message)
        for number, line in enumerate(self.extra):
            if message := option_fault(line):
                yield Fault(path=f"extra.{number}", message=message)
        if self.memory is not None and any(line.startswith("--mem-per-") for line in self.extra):
            message = "memory is also set by an option in extra; keep one of the two"
            yield Fault(path="memory", message=message, related=("extra",))
        for place, text in self.container.texts() if self.container else ():
            if message := secret_fault(text):
                yield Fault(path=f"container.{place}", message=message)

    def _signalled_at_start(self, limit_s: int) -> Fault:
        message = (
            f"{self.signal_before_s} s before a time limit of {limit_s} s is too soon after the "
            f"start, as Slurm may be 30 s early; use a time_limit of more than "
            f"{self.signal_before_s + _LEAST_WORK_S} s"
        )
        most = limit_s - _LEAST_WORK_S - 1
        if most >= _LEAST_SIGNAL_S:
            message += f", or {_LEAST_SIGNAL_S} to {most} here"
        return Fault(path="signal_before_s", message=message, related=("time_limit",))


class SlurmResources(_SlurmWishes):
    """What a job asks of Slurm; what is not set is left to the cluster's defaults."""

    nodes: Whole = Field(default=1, ge=1, le=100_000, description="Nodes.")
    tasks_per_node: Whole = Field(default=1, ge=1, le=10_000, description="Tasks on each node.")


class LocalLauncherConfig(Record):
    """Every job a subprocess on this machine."""

    kind: Literal["local"] = "local"


class SlurmLauncherConfig(_SlurmWishes):
    """Every job a job of Slurm."""

    kind: Literal["slurm"] = "slurm"
    nodes: Whole | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Nodes of a job. Default: as many as the ranks of the point need.",
    )
    tasks_per_node: Whole | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Tasks on each node. Default: the ranks of a node; 1 without ranks.",
    )
    pack: Literal["array", "single", "allocation"] = Field(
        default="array",
        description=(
            "array: the points of the grid are an array; single: a job each; allocation: many "
            "points share one job on one node, tasks_per_node of them at a time."
        ),
    )
    max_running: Whole | None = Field(
        default=None,
        ge=1,
        description="Most points that run at a time (not with pack: allocation).",
    )
    points_per_job: Whole = Field(
        default=16, ge=1, le=10_000, description="Points of one job (pack: allocation)."
    )
    python: Word | None = Field(
        default=None,
        description=(
            "Python on the nodes: absolute, or a name that modules put on PATH. Default: the one "
            "that runs watershed."
        ),
    )
    max_retries: Whole = Field(
        default=3, ge=0, le=100, description="Retries of a job whose node or launch failed."
    )
    calls_per_minute: Whole = Field(
        default=30, ge=1, le=600, description="Refill of the bucket of calls to Slurm."
    )
    call_burst: Whole = Field(
        default=60, ge=4, le=10_000, description="Size of the bucket of calls to Slurm."
    )

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        if self.python is not None and "/" in self.python and not self.python.startswith("/"):
            message = f"{self.python!r} is relative; write the whole path"
            yield Fault(path="python", message=message)
        if self.pack != "allocation":
            return
        if self.max_running is not None:
            message = "an allocation runs tasks_per_node points at a time; set that instead"
            yield Fault(path="max_running", message=message, related=("pack",))
        if self.nodes is not None and self.nodes > 1:
            message = "the points of an allocation run on one node; use 1, or pack: array"
            yield Fault(path="nodes", message=message, related=("pack",))
        num_tasks = self.tasks_per_node or 1
        if self.gpus_per_node % num_tasks:
            message = f"{self.gpus_per_node} GPUs cannot be dealt to {num_tasks} points "
            message += "at a time (tasks_per_node); use a multiple"
            related = ("pack", "tasks_per_node")
            yield Fault(path="gpus_per_node", message=message, related=related)

    def resources(
        self, *, nodes: int = 1, tasks_per_node: int = 1, partition: str | None = None
    ) -> SlurmResources:
        """Return what one job asks for.

        Args:
            nodes: Nodes, where the launcher does not say.
            tasks_per_node: Tasks on each node, where the launcher does not say.
            partition: Where it runs; None for the launcher's partition.
        """
        asked = {name: getattr(self, name) for name in _SlurmWishes.model_fields}
        asked |= {"partition": partition} if partition else {}
        return SlurmResources(
            **asked,
            nodes=self.nodes or nodes,
            tasks_per_node=self.tasks_per_node or tasks_per_node,
        )


LauncherConfig = Annotated[
    LocalLauncherConfig | SlurmLauncherConfig,
    Field(discriminator="kind"),
    tagged_by("kind", "local"),
]
