"""A job that leaves where each of its processes has run."""

import os
import sys
from pathlib import Path

from tasks.runtime.job import ToldByAnother, run_job
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory


def tell(directory: RunDirectory) -> Result:
    """Add a line to ``nodes``: the node of this process.

    Args:
        directory: The run directory.

    Returns:
        A good end.

    Raises:
        ToldByAnother: This is not the first process.
    """
    with (directory.path / "nodes").open("a") as file:
        file.write(f"{os.environ['SLURMD_NODENAME']}\n")
    if os.environ["SLURM_PROCID"] != "0":
        raise ToldByAnother(0)
    return Result(status="finished", steps=1)


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), tell))
