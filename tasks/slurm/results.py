"""``result.json`` for jobs that could not write it: the launchers' last word on a run."""

import contextlib

from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory

STOPPED = Result(status="interrupted", message="stopped; continue with: watershed resume")
"""What there is to say of a job that was stopped on request."""


def write_result(directory: RunDirectory, result: Result) -> None:
    """Write how a run ended, on behalf of a job that did not come to it.

    The wall time of earlier attempts is kept. A full disk is no error: the job's state stands
    without the file.

    Args:
        directory: The run directory.
        result: How it ended.
    """
    with contextlib.suppress(OSError):
        earlier = directory.read_result()
        wall_s = earlier.wall_s if earlier else 0.0
        write_json(directory.result, result.model_copy(update={"wall_s": wall_s}).model_dump())
