"""Measure a machine: ``python -m tasks.zero.calibrate_job <run directory>/job.json``.

``job.json`` is a ``configs.calibration.Calibration``. Starts the ranks of this process, see
``rank_job``. Rank 0 leaves ``calibrated.json`` in the run directory.
"""

import sys
from functools import partial

from pydantic import ValidationError

from configs.calibration import Calibration
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import run_from_command_line
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.zero.rank_job import RankWork, run_as_ranks

_GRACE_S = 3.0
"""There is nothing to save."""


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    return run_from_command_line("tasks.zero.calibrate_job", work, argv)


def work(directory: RunDirectory) -> Result:
    """Measure on the ranks of this process.

    Args:
        directory: The run directory.

    Returns:
        How the measurement ended.

    Raises:
        JobError: What was started does not match what is to be measured, or that is no calibration.
        Interrupted: It was asked to stop.
        Overtaken: A newer attempt of the run has begun.
        ToldByAnother: The process of another rank says how it ended.
        OSError: A file cannot be read.
    """
    try:
        calibration = Calibration.model_validate_json(directory.job.read_bytes())
    except ValidationError as error:
        raise JobError(
            Reason.CONFIGURATION, f"{directory.job} is no calibration: {error}"
        ) from error

    def load() -> RankWork:
        from tasks.zero.calibrate import measure  # noqa: PLC0415  imports torch

        return partial(measure, directory, calibration)

    return run_as_ranks(directory, calibration.ranks_experiment, load, grace_s=_GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
