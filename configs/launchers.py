"""Where the jobs of a study run: on this machine, or on a Slurm cluster.

Every value ends up in a batch script as one quoted word, so none of them may hold a line break;
what a shell is to read as shell stands in ``setup`` and ``extra`` alone.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from configs.base import Record, Whole, tagged_by

_MOST_MINUTES = 365 * 24 * 60
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


def _checked_time(text: str) -> str:
    time_limit_s(text)
    return text


def _without_line_break(text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError(f"{text!r} holds a line break or control character; remove it")
    return text


Word = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_without_line_break)]
"""One argument of Slurm: any text without control characters; it is quoted where it is used."""
TimeLimit = Annotated[str, AfterValidator(_checked_time)]
Memory = Annotated[str, Field(pattern=r"^\d{1,9}[KMGT]?$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Apptainer(Record):
    """Run the job inside an Apptainer (Singularity) image."""

    kind: Literal["apptainer"] = "apptainer"
    image: Word = Field(description="Image file or address.")
    binds: tuple[Word, ...] = Field(default=(), description="Paths to bind: SOURCE[:TARGET[:ro]].")
    flags: tuple[Word, ...] = Field(default=(), description="Further flags, such as --nv.")


class Pyxis(Record):
    """Run the job inside an image by Slurm's Pyxis plugin, through srun."""

    kind: Literal["pyxis"] = "pyxis"
    image: Word = Field(description="Image: --container-image.")
    mounts: tuple[Word, ...] = Field(default=(), description="--container-mounts.")
    flags: tuple[Word, ...] = Field(default=(), description="Further srun flags.")


Container = Annotated[
    Apptainer | Pyxis, Field(discriminator="kind"), tagged_by("kind", "apptainer")
]


class SlurmResources(Record):
    """What a job asks of Slurm; what is not set is left to the cluster's defaults."""

    partition: Word | None = Field(default=None, description="Partition, or several with commas.")
    account: Word | None = Field(default=None, description="Account to charge.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    constraint: Word | None = Field(default=None, description="Features that a node must have.")
    nodes: Whole = Field(default=1, ge=1, le=100_000, description="Nodes.")
    tasks_per_node: Whole = Field(default=1, ge=1, le=10_000, description="Tasks on each node.")
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
        ge=30,
        le=65_535,
        description=(
            "Ask the job to save and stop so many seconds before its time limit; Slurm may be 30 s "
            "early."
        ),
    )
    mail_user: Word | None = Field(default=None, description="Address for Slurm's mails.")
    mail_type: Word | None = Field(default=None, description="When to mail: END, FAIL, ALL, ...")
    extra: tuple[Word, ...] = Field(
        default=(), description="Further options of sbatch, one each, such as --comment=night."
    )
    modules: tuple[Word, ...] = Field(default=(), description="Environment modules to load.")
    environment: dict[VariableName, str] = Field(
        default={},
        description="Environment variables of the job. Not for secrets: they stand in job.sh.",
    )
    setup: tuple[str, ...] = Field(
        default=(), description="Lines of shell that run before the job, as they stand here."
    )
    container: Container | None = Field(default=None, description="Image to run in.")


class LocalLauncherConfig(Record):
    """Every job a subprocess on this machine."""

    kind: Literal["local"] = "local"


class SlurmLauncherConfig(SlurmResources):
    """Every job a job of Slurm."""

    kind: Literal["slurm"] = "slurm"
    pack: Literal["array", "single", "allocation"] = Field(
        default="array",
        description=(
            "array: the points of the grid are an array; single: a job each; allocation: many "
            "points share one job, one process each."
        ),
    )
    max_running: Whole | None = Field(
        default=None, ge=1, description="Most points that run at a time (array: %N)."
    )
    points_per_job: Whole = Field(
        default=16, ge=1, le=10_000, description="Points of one job (pack: allocation)."
    )
    python: Word | None = Field(
        default=None,
        description="Python on the nodes, absolute. Default: the one that runs watershed.",
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


LauncherConfig = Annotated[
    LocalLauncherConfig | SlurmLauncherConfig,
    Field(discriminator="kind"),
    tagged_by("kind", "local"),
]
