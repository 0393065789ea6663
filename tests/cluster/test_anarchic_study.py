"""Anarchic averaging with real workers on a real cluster, some of them preempted."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.arrivals import Trace
from tasks.federated.simulation import assemble
from tasks.runtime.returns import read_returns
from tasks.runtime.run_directory import RunDirectory
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions
from tests.cluster.study_process import logs, only_study, running, user_environment

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "configs" / "studies" / "anarchic-slurm.yaml"
NAME = "anarchic-slurm"
_COLLECT = 4
"""Returns that the study's server takes at a time."""
_ROUNDS = 60
OVERRIDES = {
    "rounds": _ROUNDS,
    "evaluate_every": 5,
    "checkpoint_every": 7,
    "dtype": "float64",  # what the replay is compared with differs by the order of sums alone
    "launcher.cpus_per_task": 4,  # a whole node each, so that an intruder preempts somebody
}
_INTRUDER = """#!/bin/bash
#SBATCH --partition=batch --exclusive --nodes=1 --time=1
sleep 2
"""


@pytest.fixture
def small_cluster() -> Iterator[SlurmCluster]:
    """A cluster of nodes for one job each: the server and eight workers."""
    with running_cluster(ClusterOptions(nodes=9, cpus=4)) as cluster:
        yield cluster


@pytest.mark.slow
def test_the_trace_of_real_workers_replays_to_the_same_model(
    tmp_path: Path, small_cluster: SlurmCluster
) -> None:
    """Preemption and a requeued server lose and double no return; the simulator agrees."""
    cluster = small_cluster
    changes = [word for path, value in OVERRIDES.items() for word in ("--set", f"{path}={value}")]
    (tmp_path / "intruder.sh").write_text(_INTRUDER)
    environment = user_environment(cluster, tmp_path)

    with running(["run", str(STUDY), *changes], tmp_path, environment) as process:
        disturber = threading.Thread(target=_disturb, args=(cluster, tmp_path), daemon=True)
        disturber.start()
        code = process.wait(500)
        disturber.join()

    assert code == 0, logs(tmp_path)
    (run,) = only_study(tmp_path, NAME).points()
    lines = [line for line, _ in read_returns(run.returns)]
    assert [line.round for line in lines] == [
        1 + index // _COLLECT for index in range(_COLLECT * _ROUNDS)
    ]
    assert len({(line.worker, line.sequence) for line in lines}) == len(lines)
    assert {line.partition for line in lines} == {"batch", "preempt"}
    assert len(run.attempts()) >= 2
    assert max(len(worker.attempts()) for worker in run.workers()) >= 2
    real = load_file(run.model)["model"]
    # Batched and single products round differently; nothing else does.
    torch.testing.assert_close(_replayed(run), real, rtol=1e-9, atol=1e-12)


def _disturb(cluster: SlurmCluster, directory: Path) -> None:
    """Preempt workers when the first rounds are done, and requeue the server later."""
    for num_rounds, command in (
        (4, ["sbatch", "-o", "/dev/null", str(directory / "intruder.sh")]),
        (12, ["scontrol", "requeue", ""]),
    ):
        if not _has_done(directory, num_rounds):
            return
        if command[-1] == "":
            (run,) = only_study(directory, NAME).points()
            listing = cluster.run(["squeue", "-h", "-t", "R", "-o", "%A %Z"]).stdout
            command[-1] = next(
                line.split()[0] for line in listing.splitlines() if line.endswith(str(run.path))
            )
        cluster.run(command)


def _has_done(directory: Path, num_rounds: int) -> bool:
    for _ in range(1_200):  # four minutes: starting Prefect takes one and a half on a busy machine
        for log in directory.glob(f"runs/{NAME}-*/points/*/returns.jsonl"):
            if any(line.round >= num_rounds for line, _ in read_returns(log)):
                return True
        threading.Event().wait(0.2)
    return False


def _replayed(run: RunDirectory) -> torch.Tensor:
    experiment = run.read_job().federated
    replayed = experiment.model_copy(update={"arrivals": Trace(path=str(run.trace))})
    simulator = assemble(replayed).engine
    for _ in range(_ROUNDS):
        simulator.step()
    return simulator.state.model
