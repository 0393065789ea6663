"""A job whose measurements are planted: ``nightly_job.py RUN_DIRECTORY/job.json``.

``PLANTED`` in the environment is JSON: how many times slower tonight is (``slow``), by how much
nights and repeats vary (``night``, ``spread``), and the learning rate of points that fail
(``fails_at``). It stands in for an engine; all around it is real.
"""

import json
import os
import sys
from pathlib import Path

from tasks.runtime.errors import JobError, Reason
from tasks.runtime.job import run_job
from tasks.runtime.journal import Journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory


def measure(directory: RunDirectory) -> Result:
    """Write a journal of three lines.

    Args:
        directory: The run directory.

    Raises:
        JobError: The point is to fail.
    """
    planted = json.loads(os.environ["PLANTED"])
    experiment = directory.read_job().training
    if experiment.optimizer.lr == planted.get("fails_at"):
        raise JobError(Reason.DATA, "no space left on the device")
    noise = planted.get("night", 0.0) + planted.get("spread", 0.0) * (experiment.seed - 1)
    step_s = 0.5 * planted.get("slow", 1.0) * (1.0 + noise)
    if experiment.optimizer.lr != planted.get("only_at", experiment.optimizer.lr):
        step_s = 0.5 * (1.0 + noise)
    with Journal(directory.journal) as journal:
        for step in (1, 2, 3):
            journal.write(
                step,
                {
                    Metric.TRAIN_LOSS: 5.0 / step,
                    Metric.STEP_S: step_s,
                    Metric.TOKENS_PER_S: 1000 / step_s,
                },
            )
    return Result(status="finished", steps=3)


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1]), measure))
