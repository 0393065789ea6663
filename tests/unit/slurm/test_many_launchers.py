"""Many flow runs at once, on the programs of the fake Slurm and in real time."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.scripts import Size
from tests.fakes.served import FakeCluster
from tests.unit.slurm import waiting_launcher

NUM = 10
STATUS = {"squeue", "sacct", "scontrol", "sinfo"}
_ROOT = Path(__file__).parents[3]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster with room for all jobs, and no ledger."""
    size = Size(num_nodes=NUM)
    with FakeCluster(tmp_path, size=size) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
        yield served


def _num_calls(cluster: FakeCluster) -> Counter[str]:
    return Counter(call.command for call in cluster.calls())


def _asked_within(cluster: FakeCluster, seconds: float) -> int:
    """Count the questions of some time in which nothing happens."""
    before = _num_calls(cluster)
    time.sleep(seconds)
    asked = _num_calls(cluster) - before
    return sum(asked[command] for command in STATUS)


def test_ten_launchers_ask_as_one(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a look every half second instead of every half minute: two a second, and not twenty."""
    monkeypatch.setattr("tasks.slurm.agenda._SHORTEST_INTERVAL_S", 0.5)
    monkeypatch.setattr("tasks.slurm.agenda._SHARE_OF_REFILL", 100.0)
    with ThreadPoolExecutor(NUM) as threads:
        studies = [tmp_path / f"s{number}" for number in range(NUM)]
        launchers = list(threads.map(waiting_launcher.begin, studies))
    begun = _num_calls(cluster)

    asked = _asked_within(cluster, 2.0)

    for launcher in launchers:
        launcher.detach()
    assert begun["sbatch"] == NUM
    assert begun["scontrol"] == NUM  # the name of the cluster, once each
    assert 1 <= asked <= 6


@pytest.mark.slow
def test_ten_processes_ask_no_more_than_twice_a_minute(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    """While ten flow runs, processes of their own, wait for their jobs."""
    argv = [sys.executable, str(Path(waiting_launcher.__file__))]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*argv, str(tmp_path / f"s{number}")],
                    env={**os.environ, "PYTHONPATH": str(_ROOT)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for number in range(NUM)
        ]
        told = [process.stdout.readline() for process in processes if process.stdout]

        asked = _asked_within(cluster, 60.0)

    assert told == [b"running\n"] * NUM
    assert asked <= 2
