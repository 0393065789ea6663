"""Train a model: ``python -m tasks.zero.train_job <run directory>/job.json``.

Starts the ranks of this process, see ``rank_job``.
"""

import sys
from functools import partial

from tasks.runtime.job import run_from_command_line
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.zero.rank_job import RankWork, run_as_ranks

_GRACE_S = 8.0
"""Without Slurm somebody waits at a terminal; the launcher waits for ten seconds."""


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    return run_from_command_line("tasks.zero.train_job", work, argv)


def work(directory: RunDirectory) -> Result:
    """Train on the ranks of this process.

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

    def load() -> RankWork:
        from tasks.zero.training import train  # noqa: PLC0415  imports torch

        return partial(train, directory, job)

    return run_as_ranks(directory, job.training, load, grace_s=_GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
