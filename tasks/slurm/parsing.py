"""What the commands of Slurm print, turned into values; pure, for Slurm 22.05 to 24.11.

Every field ends in ``FIELD_END``, every record of ``squeue`` and ``sinfo`` in ``RECORD_END``, so
that an answer that is cut off is noticed unless it is cut between two records. The name of a job,
which may hold anything, stands last. Times come as Unix time and numbers without units where the
command can do so.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tasks.slurm.errors import SlurmUnreachable
from tasks.slurm.sightings import Accounted, Partition, Queued
from tasks.slurm.states import SlurmState

FIELD_END = "\x1f"
RECORD_END = f"{FIELD_END}\x1e\n"  # the line break is the command's own

QUEUE_FIELDS = ("JobArrayID", "State", "Reason", "RestartCnt", "Partition", "NodeList", "Name")
ACCOUNTING_FIELDS = (
    *("JobID", "State", "ExitCode", "Partition", "NodeList", "NNodes", "AllocCPUS", "AllocTRES"),
    *("Submit", "Eligible", "Start", "End", "ElapsedRaw", "TotalCPU", "MaxRSS"),
    *("ConsumedEnergyRaw", "JobName"),
)
PARTITION_FIELDS = ("%P", "%a", "%l", "%D", "%c", "%m", "%s", "%G")

_ID = re.compile(
    r"(?P<job>\d{1,10}(?:\+\d{1,5})?)(?:_(?:(?P<task>\d{1,10})|\[(?P<tasks>[^]]*)\]))?"
)
_TASKS = re.compile(r"(?P<first>\d{1,8})(?:-(?P<last>\d{1,8})(?::(?P<step>\d{1,8}))?)?")
_TIME = re.compile(r"(?:(\d{1,9})-)?(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,18}(?:\.\d{1,9})?)")
_SUBMITTED = re.compile(r"^(\d{1,10})(?:;\S*)?\n", re.MULTILINE)
_CANCELLED_BY = re.compile(r"CANCELLED by (\d{1,10})")
_SETTING = re.compile(r"^(\w+) *= (.*)\n", re.MULTILINE)
_MOST_SHOWN = 200
_MOST_TASKS = 4_000_001  # the largest MaxArraySize that Slurm takes
_NOTHING = frozenset({"None", "N/A", "(null)", "None assigned"})
_STATES = {state.name: state for state in SlurmState if state.isupper()}  # ours are not
_NO_NUMBER = 2**63  # Slurm prints its NO_VAL64 and INFINITE64, which lie above
_COUNT = re.compile(r"(\d{1,20})(\.\d{1,9})?([KMGTP]?)\+?")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}


class Unreadable(SlurmUnreachable):
    """An answer is cut off, or no answer that we know.

    Args:
        command: Which command gave it.
        text: The part that cannot be read.
    """

    def __init__(self, command: str, text: str) -> None:
        shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
        super().__init__(
            f"the answer of {command} is cut off or cannot be read: {shown!r}; it is asked again"
        )


def parse_submitted(text: str) -> str:
    """Read the answer of ``sbatch --parsable``.

    Some sites let sbatch print a banner first, hence the last line that can be an id is taken.

    Args:
        text: What it printed.

    Returns:
        The id of the job, without the name of the cluster.

    Raises:
        Unreadable: There is no whole line with an id.
    """
    found = _SUBMITTED.findall(text)
    if not found:
        raise Unreadable("sbatch", text)
    return str(found[-1])


def parse_queue(text: str) -> list[Queued]:
    """Read the answer of ``squeue`` with ``QUEUE_FIELDS``.

    Args:
        text: What it printed.

    Returns:
        One value for each job and task; tasks that wait in one record are listed one by one.

    Raises:
        Unreadable: The text is cut off, or no such answer.
    """
    queued: list[Queued] = []
    for fields in _records("squeue", text, RECORD_END, len(QUEUE_FIELDS)):
        job, state, reason, restarts, partition, nodes, name = fields
        queued += [
            Queued(
                slurm_job=each,
                name=name,
                state=_state(state),
                reason=_text(reason),
                restarts=_count(restarts) or 0,
                partition=partition,
                nodes=_text(nodes),
            )
            for each in _jobs("squeue", job)
        ]
    return queued


def parse_accounting(text: str) -> list[Accounted]:
    """Read the answer of ``sacct --duplicates`` with ``ACCOUNTING_FIELDS``.

    A job's own record says nothing of its memory, sometimes nothing of its CPU time and energy:
    they are gathered from the records of its steps, which follow it.

    Args:
        text: What it printed.

    Returns:
        One value for each incarnation of a job or task, the older one of the same job first.

    Raises:
        Unreadable: The text is cut off, or no such answer.
    """
    accounted: list[Accounted] = []
    incarnation: _Incarnation | None = None
    for fields in _records("sacct", text, f"{FIELD_END}\n", len(ACCOUNTING_FIELDS)):
        row = dict(zip(ACCOUNTING_FIELDS, fields, strict=True))
        job, _, step = row["JobID"].partition(".")
        if not step:
            if incarnation is not None:
                accounted += incarnation.values()
            incarnation = _Incarnation(_jobs("sacct", job), _accounted(row))
        elif incarnation is not None:
            incarnation.add_step(row)
    if incarnation is not None:
        accounted += incarnation.values()
    return sorted(accounted, key=lambda each: each.submitted_s or 0)


def parse_partitions(text: str) -> list[Partition]:
    """Read the answer of ``sinfo --exact`` with ``PARTITION_FIELDS``.

    Args:
        text: What it printed; a partition of unlike nodes has several records.

    Returns:
        The partitions, in the order of the text.

    Raises:
        Unreadable: The text is cut off, or no such answer.
    """
    partitions: dict[str, Partition] = {}
    for fields in _records("sinfo", text, RECORD_END, len(PARTITION_FIELDS)):
        name, available, limit, nodes, cpus, memory, size, gres = fields
        name, star = name.removesuffix("*"), name.endswith("*")
        before = partitions.get(name, Partition(name))
        partitions[name] = Partition(
            name=name,
            is_default=star,
            is_up=available == "up",
            time_limit_s=_limit(limit),
            num_nodes=before.num_nodes + (_count(nodes) or 0),
            cpus_per_node=max(before.cpus_per_node, _count(cpus) or 0),
            memory_mb_per_node=max(before.memory_mb_per_node, _count(memory) or 0),
            gpus_per_node=max(before.gpus_per_node, _gpus_of_node(gres)),
            max_nodes=_count(size.rpartition("-")[2]),
        )
    return list(partitions.values())


def parse_settings(text: str) -> Mapping[str, str]:
    """Read the answer of ``scontrol show config``.

    Args:
        text: What it printed.

    Returns:
        Name of the setting -> value; lines that are no settings, or cut off, are left out.
    """
    return dict(_SETTING.findall(text))


def words(text: str) -> str:
    """Return what a command said on stderr, without its own name and in one line."""
    lines = (re.sub(r"^\w+: ((error|fatal): )?", "", line).strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line)


@dataclass
class _Incarnation:
    """A record of a job, and what its steps have used."""

    slurm_jobs: list[str]
    job: Accounted
    step_cpu_s: float = 0.0

    def add_step(self, row: Mapping[str, str]) -> None:
        step = _accounted(row)
        self.step_cpu_s += step.cpu_s or 0.0
        self.job = replace(
            self.job,
            max_rss_bytes=_largest(self.job.max_rss_bytes, step.max_rss_bytes),
            # Steps overlap in time and the meter is the node's, so a sum would count twice.
            energy_j=_largest(self.job.energy_j, step.energy_j),
        )

    def values(self) -> list[Accounted]:
        whole = self.job
        if self.step_cpu_s > (whole.cpu_s or 0.0):
            whole = replace(whole, cpu_s=self.step_cpu_s)
        return [replace(whole, slurm_job=job) for job in self.slurm_jobs]


def _records(command: str, text: str, end: str, num_fields: int) -> Iterator[list[str]]:
    *records, rest = text.split(end)
    if rest:
        raise Unreadable(command, rest)
    for record in records:
        fields = record.split(FIELD_END, num_fields - 1)
        if len(fields) != num_fields:
            raise Unreadable(command, record)
        yield fields


def _jobs(command: str, text: str) -> list[str]:
    """Return the ids behind ``12``, ``12_3``, ``12+1`` (heterogeneous) or ``12_[5-9,11%3]``.

    Raises:
        Unreadable: It is none of them.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise Unreadable(command, text)
    if match["tasks"] is None:
        return [text]
    jobs: list[str] = []
    for part in match["tasks"].partition("%")[0].split(","):
        tasks = _TASKS.fullmatch(part)
        if tasks is None:
            raise Unreadable(command, text)
        first = int(tasks["first"])
        numbers = range(first, int(tasks["last"] or first) + 1, int(tasks["step"] or 1) or 1)
        if len(jobs) + len(numbers) > _MOST_TASKS:
            raise Unreadable(command, text)
        jobs += [f"{match['job']}_{number}" for number in numbers]
    return jobs


def _accounted(row: Mapping[str, str]) -> Accounted:
    code, _, signal = row["ExitCode"].partition(":")
    cancelled = _CANCELLED_BY.match(row["State"])
    return Accounted(
        slurm_job="",
        name=row["JobName"],
        state=_state(row["State"]),
        exit_code=_count(code) or 0,
        signal=_count(signal) or 0,
        cancelled_by=int(cancelled[1]) if cancelled else None,
        partition=row["Partition"],
        nodes=_text(row["NodeList"]),
        num_nodes=_count(row["NNodes"]) or 0,
        num_cpus=_count(row["AllocCPUS"]) or 0,
        num_gpus=_gpus_of_job(row["AllocTRES"]),
        submitted_s=_count(row["Submit"]),
        eligible_s=_count(row["Eligible"]),
        started_s=_count(row["Start"]),
        ended_s=_count(row["End"]),
        elapsed_s=_count(row["ElapsedRaw"]) or 0,
        cpu_s=_seconds(row["TotalCPU"]),
        max_rss_bytes=_count(row["MaxRSS"]),
        energy_j=_count(row["ConsumedEnergyRaw"]) or None,  # 0: there is no meter
    )


def _state(text: str) -> SlurmState:
    """Return the state; one that is new to us is unknown, never a reason for anything."""
    return _STATES.get(text.partition(" ")[0], SlurmState.UNKNOWN)


def _text(text: str) -> str:
    return "" if text in _NOTHING else text


def _count(text: str) -> int | None:
    """Return a number such as ``16``, ``16+`` (of the smallest of unlike nodes) or ``4.5K``."""
    match = _COUNT.fullmatch(text)
    if match is None:
        return None
    number, fraction, unit = match.groups()
    if fraction or unit:
        value = round(float(number + (fraction or "")) * _UNITS[unit])
    else:
        value = int(number)
    return value if value < _NO_NUMBER else None


def _limit(text: str) -> int | None:
    seconds = _seconds(text)
    return None if seconds is None else int(seconds)


def _seconds(text: str) -> float | None:
    """Return a duration: ``[[days-]hours:]minutes:seconds[.fraction]``; None for any other text."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return days * 86_400 + hours * 3600 + minutes * 60 + float(match[4])


def _gpus_of_node(gres: str) -> int:
    """Count the GPUs in what a node offers: ``gpu:a100:4(S:0-1),gpu:2,nvme:1``."""
    total = 0
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, _, rest = part.partition(":")
        if kind == "gpu":
            total += _count(rest.rpartition(":")[2]) or 0
    return total


def _gpus_of_job(tres: str) -> int:
    """Count the GPUs of an allocation: ``cpu=8,gres/gpu=2,gres/gpu:a100=2,mem=4000M``."""
    if "gres/gpu" not in tres:
        return 0
    counts = {
        kind: _count(count) or 0 for kind, _, count in (p.partition("=") for p in tres.split(","))
    }
    by_type = sum(count for kind, count in counts.items() if kind.startswith("gres/gpu:"))
    return counts.get("gres/gpu", by_type)


def _largest(first: int | None, second: int | None) -> int | None:
    return max((each for each in (first, second) if each is not None), default=None)
