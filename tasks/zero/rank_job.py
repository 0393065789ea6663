"""A job of many ranks: which of them this process starts, and how they ended.

Started alone, a job starts all ranks on this machine. Started by srun once for each rank, or with
the variables ``WATERSHED_RANK``, ``WATERSHED_RANKS``, ``WATERSHED_LOCAL_RANK`` and
``WATERSHED_NODE``, it starts that rank. Either way it stays beside its ranks.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.fence import Fence
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import stop_asked
from tasks.zero.identity import Identity, check_identity, ranks_here

_THREADS = "OMP_NUM_THREADS"

RankWork = Callable[[Path, Fence, Identity], Result]
"""What a rank does: the directory of the attempt, its fence, and which rank it is."""


def run_as_ranks(
    directory: RunDirectory,
    experiment: TrainingExperiment,
    load: Callable[[], RankWork],
    *,
    grace_s: float,
) -> Result:
    """Run the ranks of this process.

    Args:
        directory: The run directory.
        experiment: Whose ranks and topology these are.
        load: Imports what the ranks do, and torch with it: once, as the ranks are forked, and after
            the number of their threads is known.
        grace_s: How long ranks that are asked to stop may take, where Slurm does not tell.

    Returns:
        How they ended.

    Raises:
        JobError: What was started does not match the experiment.
        Interrupted: It was asked to stop.
        Overtaken: A newer attempt of the run has begun.
        ToldByAnother: The process of another rank says how it ended.
        OSError: A file cannot be read.
    """
    identity = Identity.of_environment(os.environ)
    fence = Fence.of_environment(directory.path)
    if identity is not None:
        check_identity(identity, experiment)
        if not fence.attempt and identity.num_ranks > 1:
            message = "ranks were started one by one, and not by job.sh; run: sbatch job.sh"
            raise JobError(Reason.RANKS, message)
    identities = ranks_here(experiment) if identity is None else [identity]
    _share_cores(len(identities))
    rank_work = load()
    from tasks.zero.local_ranks import run_ranks  # noqa: PLC0415  imports torch
    from tasks.zero.telling import Telling, conclusion  # noqa: PLC0415

    attempt = directory.attempts()[-1] if not fence.attempt else directory.attempt(fence.attempt)
    with stop_asked(None if fence.attempt else grace_s) as stop:
        end = run_ranks(
            identities,
            partial(rank_work, attempt, fence),
            stop,
            # Whether there are GPUs only a rank may ask: it does not survive a fork.
            aborts_after_s=float("inf") if experiment.device == "cpu" else experiment.timeout_s,
        )
        if identity is None:
            return conclusion(end)
        return Telling(directory, attempt, identities[0]).settle(end, stop)


def _share_cores(num_ranks: int) -> None:
    """Deal the cores that this process may use to its ranks; before torch is imported."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = os.environ.get(_THREADS, "")
    threads = int(given) if given.isdecimal() else cores or 1
    os.environ[_THREADS] = os.environ["MKL_NUM_THREADS"] = str(max(1, threads // num_ranks))
