"""Train a model: ``python -m tasks.zero.train_job <run directory>/job.json``.

Started alone, it starts all ranks on this machine. Started by srun once for each rank, or with the
variables ``WATERSHED_RANK``, ``WATERSHED_RANKS``, ``WATERSHED_LOCAL_RANK`` and ``WATERSHED_NODE``,
it starts that rank. Either way it stays beside its ranks, and says how they ended.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tasks.runtime.errors import JobError
from tasks.runtime.fence import Fence
from tasks.runtime.job import run_job
from tasks.runtime.records import JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import stop_asked
from tasks.zero.identity import Identity, all_ranks, check_identity

_GRACE_S = 8.0
"""Without Slurm somebody waits at a terminal; the launcher waits for ten seconds."""
_THREADS = "OMP_NUM_THREADS"


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tasks.zero.train_job RUN_DIRECTORY/job.json\n")
        return 2
    return run_job(Path(arguments[0]), work)


def work(directory: RunDirectory) -> Result:
    """Run the ranks of this process.

    Args:
        directory: The run directory.

    Returns:
        How the training ended.

    Raises:
        JobError: What was started does not match the experiment, or that is none of a training.
        Interrupted: It was asked to stop.
        Overtaken: A newer attempt of the run has begun.
        ToldByAnother: The process of another rank says how it ended.
        OSError: A file cannot be read.
    """
    job = directory.read_job()
    experiment = job.training
    identity = Identity.of_environment(os.environ)
    fence = Fence.of_environment(directory.path)
    if identity is not None:
        check_identity(identity, experiment)
        if not fence.attempt and identity.num_ranks > 1:
            message = "ranks were started one by one, and not by job.sh; run: sbatch job.sh"
            raise JobError("ranks", message)
    identities = all_ranks(experiment) if identity is None else [identity]
    share_cores(len(identities))
    return _run(directory, job, identities, fence=fence, is_alone=identity is None)


def share_cores(num_ranks: int) -> None:
    """Deal the cores that this process may use to its ranks; before torch is imported.

    Args:
        num_ranks: Ranks that this process starts.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = os.environ.get(_THREADS, "")
    threads = int(given) if given.isdecimal() else cores or 1
    os.environ[_THREADS] = os.environ["MKL_NUM_THREADS"] = str(max(1, threads // num_ranks))


def _run(
    directory: RunDirectory,
    job: JobFile,
    identities: Sequence[Identity],
    *,
    fence: Fence,
    is_alone: bool,
) -> Result:
    # Once for all ranks, which are forked; the threads of a rank are known by now.
    from tasks.zero.local_ranks import run_ranks  # noqa: PLC0415
    from tasks.zero.telling import Telling, conclusion  # noqa: PLC0415
    from tasks.zero.training import train  # noqa: PLC0415

    attempt = directory.attempts()[-1] if not fence.attempt else directory.attempt(fence.attempt)
    rank_work = partial(train, directory, job, attempt, fence)
    with stop_asked(None if fence.attempt else _GRACE_S) as stop:
        end = run_ranks(identities, rank_work, stop)
        if is_alone:
            return conclusion(end)
        return Telling(directory, attempt, identities[0]).settle(end, stop)


if __name__ == "__main__":
    sys.exit(main())
