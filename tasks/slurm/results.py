"""``result.json`` for jobs that could not write it: the launchers' last word on a run."""

import contextlib
from pathlib import Path

from tasks.runtime.atomic_files import write_json
from tasks.runtime.job import earlier_result
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.entries import Entry
from tasks.slurm.plan import NAME_PREFIX

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
        earlier = earlier_result(directory)
        wall_s = earlier.wall_s if earlier else 0.0
        write_json(directory.result, result.model_copy(update={"wall_s": wall_s}).model_dump())


def slurm_output(entry: Entry) -> Path:
    """Return where Slurm's own words on a job are, and those of its batch script.

    Args:
        entry: The job, as it stands in the ledger.
    """
    own = RunDirectory(Path(entry.run_dir)).slurm_output
    if entry.mode == "single" or not entry.name:
        return own
    key = entry.name.removeprefix(NAME_PREFIX).rpartition("-")[0]
    batch = RunDirectory(Path(entry.study_dir) / "batches" / key)
    if entry.mode == "array":
        return batch.path / f"slurm-{entry.task}.out"
    return batch.slurm_output
