"""A job that does what the label of its grid point says; it counts how often it really began."""

import os
import signal
import sys
import time
from pathlib import Path

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import run_job
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory


def work(directory: RunDirectory) -> Result:
    """Do what is asked for.

    Args:
        directory: The run directory; its point is ``work SECONDS``, ``fail``, ``die``, ``save`` or
            ``deaf SECONDS``, which hears no SIGTERM when it begins for the first time.

    Returns:
        A good end.

    Raises:
        JobError: That was asked for.
    """
    what, _, seconds = directory.read_job().point.partition(" ")
    with (directory.path / "began").open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID')}\n")
    if what == "fail":
        raise JobError(Reason.DATA, "there are none")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "save":  # the second attempt finds what the first has saved
        directory.checkpoints.mkdir(exist_ok=True)
        if list(directory.checkpoints.iterdir()):
            seconds = "0"
        (directory.checkpoints / "000001").touch()
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        seconds = seconds if len((directory.path / "began").read_text().split()) == 1 else "0"
    time.sleep(float(seconds or 0))
    (directory.path / "ended").write_text(repr(time.time()))
    return Result(status="finished", steps=1)


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), work))
