"""A flow that says where it runs, and waits: for tests of the worker."""

import os
import time
from pathlib import Path

from prefect import flow


@flow(name="waiting")
def waiting(seconds: float, marks: str, again: float | None = None) -> str:
    """Write a line with Slurm's id of the job, wait, and end.

    Args:
        seconds: How long.
        marks: The file, appended to.
        again: How long if it was started before; default: as long.
    """
    is_first = not Path(marks).exists()
    with Path(marks).open("a", encoding="utf-8") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID', 'none')}\n")
    time.sleep(seconds if is_first or again is None else again)
    return "waited"
