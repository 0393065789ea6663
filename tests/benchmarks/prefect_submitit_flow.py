"""A flow whose tasks prefect-submitit sends to Slurm; runs in a Python of its own.

Reads lines of JSON, ``{"paths": [...], "waits_s": [...]}``, and maps a task over each. Says
``ready`` once the flow runs, ``submitted`` when a map has returned, and the path of every job whose
result it has.

    python -m tests.benchmarks.prefect_submitit_flow LOG_DIRECTORY
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect_submitit import (  # type: ignore[import-not-found]  # not in our environment
    SlurmTaskRunner,
)

from tests.benchmarks.waiting_job import wait_and_say

_MOST_WAITERS = 32


@task
def wait(path: str, wait_s: float) -> None:
    """Wait on the node, and say when it ended."""
    wait_and_say(Path(path), wait_s)


@flow
def wait_on_slurm() -> None:
    """Submit what is asked for, and say what is known."""
    _say("ready")
    with ThreadPoolExecutor(_MOST_WAITERS) as pool:
        for line in sys.stdin:  # no parameter, which Prefect would read before us
            order = json.loads(line)
            futures = wait.map(order["paths"], order["waits_s"])
            _say("submitted")
            for path, future in zip(order["paths"], futures, strict=True):
                pool.submit(copy_context().run, _follow, path, future)


def _follow(path: str, future: Any) -> None:
    future.result()
    _say(path)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    runner = SlurmTaskRunner(
        slurm_partition="batch",
        timeout_min=10,
        mem_gb=1,
        slurm_array_parallelism=2000,
        log_folder=sys.argv[1],
    )
    wait_on_slurm.with_options(task_runner=runner)()
