"""What a cluster cannot give, as far as it says so before anything is submitted.

Accounts, QoS and features are not looked at: whether they may be used, sbatch alone can tell, and
says in its own words.
"""

import math
from collections.abc import Iterator, Sequence

from configs.base import Fault
from configs.faults import nearest
from configs.launchers import SlurmResources, time_limit_s
from tasks.slurm.sightings import Partition

_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def faults(resources: SlurmResources, partitions: Sequence[Partition]) -> list[Fault]:
    """Compare what a job asks for with what the cluster's partitions have.

    Of several partitions, one that can take the job is enough.

    Args:
        resources: What it asks for.
        partitions: All partitions of the cluster.

    Returns:
        What is impossible, with paths below ``launcher``; empty if nothing is.
    """
    known = {partition.name: partition for partition in partitions}
    if resources.partition is None:
        wanted = [partition for partition in partitions if partition.is_default]
        if not wanted:
            message = f"none is named and the cluster has no default; use one of {_listed(known)}"
            return [Fault(path="launcher.partition", message=message)]
    else:
        names = resources.partition.split(",")
        if unknown := [name for name in names if name not in known]:
            return [
                Fault(
                    path="launcher.partition",
                    message=f"{name!r} is unknown{nearest(name, list(known))}; known: "
                    f"{_listed(known)}",
                )
                for name in unknown
            ]
        wanted = [known[name] for name in names]
    found = [list(_faults_of(resources, partition)) for partition in wanted]
    if not all(found):
        return []
    fitting = [one.name for one in partitions if not any(_faults_of(resources, one))]
    hint = f"; partitions that can: {', '.join(fitting)}" if fitting else ""
    return [
        Fault(path=f"launcher.{field}", message=f"{message}{hint}")
        for partition_faults in found
        for field, message in partition_faults
    ]


def _faults_of(resources: SlurmResources, partition: Partition) -> Iterator[tuple[str, str]]:
    """Field and words for each thing that one partition cannot give."""
    name = partition.name
    if not partition.is_up:
        yield "partition", f"{name} takes no jobs now; use another one, or wait until it is up"
        return
    limit_s = partition.time_limit_s
    if limit_s is not None and time_limit_s(resources.time_limit) > limit_s:
        yield (
            "time_limit",
            f"{resources.time_limit} is over the limit of {name}; use {_duration(limit_s)} at most",
        )
    if resources.nodes > partition.num_nodes:
        yield "nodes", _too_many(resources.nodes, f"{name} has {partition.num_nodes} nodes")
    elif partition.max_nodes is not None and resources.nodes > partition.max_nodes:
        most = f"{name} gives a job {partition.max_nodes} nodes at most"
        yield "nodes", _too_many(resources.nodes, most)
    cpus = resources.tasks_per_node * resources.cpus_per_task
    if cpus > partition.cpus_per_node:
        field = "tasks_per_node" if resources.cpus_per_task == 1 else "cpus_per_task"
        most = f"no node of {name} has more than {partition.cpus_per_node} CPUs"
        yield field, _too_many(cpus, most, "CPUs a node (tasks_per_node x cpus_per_task)")
    if resources.gpus_per_node > partition.gpus_per_node:
        most = f"no node of {name} has more than {partition.gpus_per_node} GPUs"
        yield "gpus_per_node", _too_many(resources.gpus_per_node, most)
    if _memory_mb(resources.memory) > partition.memory_mb_per_node:
        most = f"no node of {name} has more than {partition.memory_mb_per_node}M"
        yield "memory", f"{resources.memory} is too much: {most}"


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
