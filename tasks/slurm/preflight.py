"""What a cluster cannot give, as far as it says so before anything is submitted.

Accounts, QoS and features are not looked at: whether they may be used, sbatch alone can tell, and
says in its own words.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.base import Fault
from configs.faults import nearest
from configs.launchers import SlurmResources, time_limit_s
from tasks.slurm.sightings import Partition

_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class _Finding:
    """Something that a partition does not give, as far as it says.

    Attributes:
        field: Of the launcher.
        message: What was asked, and what there is.
        is_certain: Whether nothing else of the cluster could allow it.
    """

    field: str
    message: str
    is_certain: bool = True


def faults(resources: SlurmResources, partitions: Sequence[Partition]) -> list[Fault]:
    """Compare what a job asks for with what the cluster's partitions have.

    Of several partitions, one that can take the job is enough.

    Args:
        resources: What it asks for.
        partitions: All partitions of the cluster.

    Returns:
        What is impossible, with paths below ``launcher``; empty if nothing is.
    """
    return _compare(resources, partitions)[0]


def doubts(resources: SlurmResources, partitions: Sequence[Partition]) -> list[Fault]:
    """Find what sbatch may take, and may not; for the user to know, and to go on.

    A plugin of the site may choose the partition of a job that names none, a QoS may set the time
    limit of a partition aside, and a partition that is down may be up when the job is submitted.

    Args:
        resources: What a job asks for.
        partitions: All partitions of the cluster.

    Returns:
        As ``faults``; empty if something is impossible.
    """
    return _compare(resources, partitions)[1]


def _compare(
    resources: SlurmResources, partitions: Sequence[Partition]
) -> tuple[list[Fault], list[Fault]]:
    known = {partition.name: partition for partition in partitions}
    names = resources.partition.split(",") if resources.partition is not None else []
    if unknown := [name for name in names if name not in known]:
        return [_unknown(name, known) for name in unknown], []
    defaults = [partition for partition in partitions if partition.is_default]
    wanted = [known[name] for name in names] or defaults or list(partitions)
    fitting = [one.name for one in partitions if not any(_findings(resources, one))]
    hint = f"; partitions that can: {', '.join(fitting)}" if fitting else ""
    found = [list(_findings(resources, partition)) for partition in wanted]
    is_impossible = all(any(one.is_certain for one in findings) for findings in found)
    if not names and fitting:
        is_impossible = False
        hint += (
            "; sbatch takes it only if the cluster chooses the partition of such a job by itself"
        )
    listed = [
        Fault(path=f"launcher.{one.field}", message=f"{one.message}{hint}")
        for findings in found
        for one in findings
        if one.is_certain or not is_impossible
    ]
    if is_impossible:
        return listed, []
    if not names and not defaults:
        return [], [_no_default(known)]
    return [], listed if all(found) else []


def _unknown(name: str, known: dict[str, Partition]) -> Fault:
    message = f"{name!r} is unknown{nearest(name, list(known))}; known: {_listed(known)}"
    return Fault(path="launcher.partition", message=message)


def _no_default(known: dict[str, Partition]) -> Fault:
    message = "none is named and the cluster has no default: sbatch takes it only if the cluster "
    message += f"chooses the partition by itself; else use one of {_listed(known)}"
    return Fault(path="launcher.partition", message=message)


def _findings(resources: SlurmResources, partition: Partition) -> Iterator[_Finding]:
    """Each thing that one partition cannot give."""
    name = partition.name
    if not partition.is_up:
        message = f"{name} takes no jobs now, or starts none; they wait until it does"
        yield _Finding("partition", message, is_certain=False)
    limit_s = partition.time_limit_s
    if limit_s is not None and time_limit_s(resources.time_limit) > limit_s:
        message = f"{resources.time_limit} is over the limit of {name}"
        if resources.qos is None:
            yield _Finding("time_limit", f"{message}; use {_duration(limit_s)} at most")
        else:
            message += f", {_duration(limit_s)}, which QoS {resources.qos} may set aside"
            yield _Finding("time_limit", message, is_certain=False)
    if resources.nodes > partition.num_nodes:
        most = f"{name} has {partition.num_nodes} nodes"
        yield _Finding("nodes", _too_many(resources.nodes, most))
    elif partition.max_nodes is not None and resources.nodes > partition.max_nodes:
        most = f"{name} gives a job {partition.max_nodes} nodes at most"
        yield _Finding("nodes", _too_many(resources.nodes, most))
    yield from _findings_on_a_node(resources, partition)


def _findings_on_a_node(resources: SlurmResources, partition: Partition) -> Iterator[_Finding]:
    name = partition.name
    cpus = resources.tasks_per_node * resources.cpus_per_task
    if cpus > partition.cpus_per_node:
        field = "tasks_per_node" if resources.cpus_per_task == 1 else "cpus_per_task"
        most = f"no node of {name} has more than {partition.cpus_per_node} CPUs"
        message = _too_many(cpus, most, "CPUs a node (tasks_per_node x cpus_per_task)")
        yield _Finding(field, message)
    if resources.gpus_per_node > partition.gpus_per_node:
        most = f"no node of {name} has more than {partition.gpus_per_node} GPUs"
        yield _Finding("gpus_per_node", _too_many(resources.gpus_per_node, most))
    if _memory_mb(resources.memory) > partition.memory_mb_per_node:
        most = f"no node of {name} has more than {partition.memory_mb_per_node}M"
        yield _Finding("memory", f"{resources.memory} is too much: {most}")


def _too_many(asked: int, most: str, unit: str = "") -> str:
    return f"{asked} {unit}".rstrip() + f" are too many: {most}"


def _memory_mb(memory: str | None) -> int:
    """Megabytes (2^20), as Slurm rounds them; 0 where nothing or all of the node is asked for."""
    if memory is None:
        return 0
    digits, unit = (memory, "M") if memory[-1].isdigit() else (memory[:-1], memory[-1])
    return math.ceil(int(digits) * _BYTES[unit] / _BYTES["M"])


def _duration(seconds: int) -> str:
    """Write a time as Slurm does: ``[days-]hours:minutes:seconds``."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02}:{minute:02}:{second:02}"


def _listed(known: dict[str, Partition]) -> str:
    return ", ".join(known) or "(there are none)"
