"""Where runs ran, in words that are equal when their speeds can be compared."""

import os

from configs.launchers import LocalLauncherConfig, SlurmLauncherConfig
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.reading import load_record
from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import STARTED


def machine_of(directory: RunDirectory) -> str:
    """Say where a run ran last: the cluster and its partition, or this machine's name.

    Args:
        directory: The run directory.

    Returns:
        Such as ``slurm: frontier/batch`` or ``local: laptop``; empty if it is not known.
    """
    attempts = directory.attempts()
    if not attempts:
        return ""
    try:
        started = load_record(Started, attempts[-1] / STARTED)
    except (OSError, DamagedFileError):
        return ""
    if started.slurm_job:
        return f"slurm: {started.cluster or 'cluster'}/{started.partition or 'partition'}"
    return f"local: {started.host}"


def allocation_of(
    launcher: LocalLauncherConfig | SlurmLauncherConfig, num_parallel: int | None
) -> str:
    """Say what of a machine a job gets, as far as its speed depends on it.

    Nodes and tasks follow from the ranks of a point, which are part of its configuration.

    Args:
        launcher: Where the jobs of a study run.
        num_parallel: Local jobs at a time; None for the default.

    Returns:
        Such as ``7 CPUs a task, 4 GPUs``; of local jobs, the cores of this process.
    """
    if isinstance(launcher, LocalLauncherConfig):
        at_a_time = f", {num_parallel} jobs at a time" if num_parallel else ""
        return f"{len(os.sched_getaffinity(0))} cores{at_a_time}"
    words = [f"{launcher.cpus_per_task} CPUs a task"]
    if launcher.pack == "allocation":
        words.append(f"{launcher.tasks_per_node or 1} tasks at a time")
    if launcher.gpus_per_node:
        words.append(
            " ".join(filter(None, (str(launcher.gpus_per_node), launcher.gpu_type, "GPUs")))
        )
    if launcher.constraint is not None:
        words.append(launcher.constraint)
    if launcher.exclusive:
        words.append("exclusive")
    return ", ".join(words)
