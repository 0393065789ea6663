"""Measure a machine: ``python -m tasks.zero.calibrate_job <run directory>/job.json``.

``job.json`` is a ``configs.calibration.Calibration``. Started alone, it starts all ranks on this
machine. Started by srun once for each rank, it starts that rank. Rank 0 leaves ``calibrated.json``
in the run directory.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from configs.calibration import Calibration
from tasks.runtime.errors import JobError
from tasks.runtime.fence import Fence
from tasks.runtime.job import run_job
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.stopping import stop_asked
from tasks.zero.identity import Identity, all_ranks, check_identity
from tasks.zero.train_job import share_cores

_GRACE_S = 3.0
"""There is nothing to save."""


def main(argv: list[str] | None = None) -> int:
    """Run the job of a run directory.

    Args:
        argv: The path of ``job.json``; default: the process's arguments.

    Returns:
        The exit code, see ``tasks.runtime.job``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tasks.zero.calibrate_job RUN_DIRECTORY/job.json\n")
        return 2
    return run_job(Path(arguments[0]), work)


def work(directory: RunDirectory) -> Result:
    """Run the ranks of this process.

    Args:
        directory: The run directory.

    Returns:
        How the measurement ended.

    Raises:
        JobError: What was started does not match what is to be measured.
        Interrupted: It was asked to stop.
        Overtaken: A newer attempt of the run has begun.
        ToldByAnother: The process of another rank says how it ended.
        OSError: A file cannot be read.
    """
    try:
        calibration = Calibration.model_validate_json(directory.job.read_bytes())
    except ValidationError as error:
        raise JobError("configuration", f"{directory.job} is no calibration: {error}") from error
    identity = Identity.of_environment(os.environ)
    fence = Fence.of_environment(directory.path)
    if identity is not None:
        check_identity(identity, calibration.ranks_experiment)
        if not fence.attempt and identity.num_ranks > 1:
            message = "ranks were started one by one, and not by job.sh; run: sbatch job.sh"
            raise JobError("ranks", message)
    ranks = all_ranks(calibration.ranks_experiment) if identity is None else [identity]
    share_cores(len(ranks))
    return _run(directory, calibration, ranks, fence=fence, is_alone=identity is None)


def _run(
    directory: RunDirectory,
    calibration: Calibration,
    identities: Sequence[Identity],
    *,
    fence: Fence,
    is_alone: bool,
) -> Result:
    # Once for all ranks, which are forked; the threads of a rank are known by now.
    from tasks.zero.calibrate import measure  # noqa: PLC0415
    from tasks.zero.local_ranks import run_ranks  # noqa: PLC0415
    from tasks.zero.telling import Telling, conclusion  # noqa: PLC0415

    attempt = directory.attempts()[-1] if not fence.attempt else directory.attempt(fence.attempt)
    rank_work = partial(measure, directory, calibration, attempt, fence)
    with stop_asked(None if fence.attempt else _GRACE_S) as stop:
        end = run_ranks(identities, rank_work, stop)
        if is_alone:
            return conclusion(end)
        return Telling(directory, attempt, identities[0]).settle(end, stop)


if __name__ == "__main__":
    sys.exit(main())
