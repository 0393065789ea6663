"""Follows many servers of which all run at once, while a list stands in for their jobs.

``python -m tests.integration.many_servers DIRECTORY NUM_SERVERS PATIENCE_S`` prints, as JSON, the
flow run's id and of how many servers the workers were submitted before any server ended.
"""

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from configs.study import Study
from flows.federated import follow_federated, prepare_workers
from flows.points import NUM_FOLLOWED
from tasks.runtime.records import ReturnLine
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState, id_of
from tasks.steps.creation import create_study_directory
from tests.fakes.launcher import ListedLauncher

ROUNDS = 2


def follow_all(study: Study, runs: Sequence[RunDirectory], patience_s: float) -> dict[str, object]:
    """Follow servers that run; end them once all have workers, or after some time.

    Args:
        study: Their study.
        runs: Their run directories.
        patience_s: How long to wait for the workers.

    Returns:
        What is to be printed.
    """
    jobs = [(run, id_of(run.path)) for run in runs]
    launcher = ListedLauncher({job: JobState.RUNNING for _, job in jobs})
    futures = list(follow_federated(study, None, launcher, jobs))
    deadline = time.monotonic() + patience_s
    while (num_served := _num_served(runs, launcher)) < len(runs) and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    told = {"flow_run_id": str(flow_run.get_id()), "num_served": num_served}
    for run in runs:
        run.returns.write_text("".join(_line(number) for number in range(ROUNDS)))
    are_over = threading.Event()

    def end() -> None:
        while not are_over.wait(0.1):  # also workers that are submitted only now
            launcher.states = dict.fromkeys(launcher.states, JobState.FINISHED)

    ending = threading.Thread(target=end)
    ending.start()
    for future in futures:
        future.wait()
    are_over.set()
    ending.join()
    return told


def _num_served(runs: Sequence[RunDirectory], launcher: ListedLauncher) -> int:
    submitted = [Path(job) for job in list(launcher.submissions)]
    return sum(any(job.is_relative_to(run.path) for job in submitted) for run in runs)


def _line(number: int) -> str:
    line = ReturnLine(
        round=number + 1, worker=0, sequence=number, pulled=0, num_steps=1, delay=0, token=1,
        pulled_at_s=0, returned_at_s=1, taken_at_s=number,
    )  # fmt: skip
    return f"{line.model_dump_json()}\n"


def main(argv: Sequence[str]) -> None:
    """Make the study, and follow it."""
    data = {"name": "digits", "partition": "iid"}
    arrivals = {"kind": "slurm", "partitions": [{"partition": "batch", "workers": 2}]}
    experiment = {"workers": 2, "rounds": ROUNDS, "data": data}
    experiment |= {"arrivals": arrivals, "algorithm": {"collect": 2}}
    grid = {"seed": list(range(int(argv[1])))}
    raw = {"name": "many", "launcher": "slurm", "experiment": experiment, "grid": grid}
    study = Study.model_validate(raw)
    directory = create_study_directory(study, Path(argv[0]).resolve(), datetime.now(UTC))
    for run in directory.points():
        prepare_workers(run)

    @flow(
        name="many-servers",
        task_runner=ThreadPoolTaskRunner(max_workers=NUM_FOLLOWED),  # type: ignore[arg-type]  # generic
    )
    def many_servers() -> None:
        told = follow_all(study, directory.points(), float(argv[2]))
        sys.stdout.write(f"{json.dumps(told)}\n")

    many_servers()


if __name__ == "__main__":
    main(sys.argv[1:])
