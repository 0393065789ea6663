"""The launcher beside submitit and prefect-submitit on the same real cluster.

Submission, following, calls to Slurm. ``job_contenders`` says how to get prefect-submitit.
"""

import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.job_contenders import (
    HOW_TO_GET_IT,
    PYTHON,
    Contender,
    PrefectSubmitit,
    Submitit,
    Watershed,
)
from tests.cluster import availability
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions

_COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
_NUM_JOBS, _SPACING_S, _SHORTEST_S = 20, 1.0, 60.0
_SINGLE_JOBS = 20
_ARRAY = 1000

pytestmark = [
    pytest.mark.skipif(not availability.here().runs, reason=availability.here().message),
    pytest.mark.parametrize(
        "kind",
        [
            Watershed,
            Submitit,
            pytest.param(
                PrefectSubmitit,
                marks=pytest.mark.skipif(PYTHON not in os.environ, reason=HOW_TO_GET_IT),
            ),
        ],
    ),
]


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Counter[str]]]:
    """A cluster with accounting whose commands are counted; gives a function that counts."""
    log = tmp_path / "calls.log"
    log.touch()
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in _COMMANDS:
        shim = shims / name
        shim.write_text(f'#!/bin/sh\necho {name} >>"{log}"\nexec {shutil.which(name)} "$@"\n')
        shim.chmod(0o755)
    with running_cluster(ClusterOptions(accounting=True, max_array_size=2000)) as cluster:
        _use(cluster, shims, monkeypatch)
        yield lambda: Counter(log.read_text().split())


def _use(cluster: SlurmCluster, shims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")


@pytest.fixture
def contender(
    kind: Callable[[Path], Contender], tmp_path: Path, calls: Callable[[], Counter[str]]
) -> Iterator[Contender]:
    """One that submits to that cluster."""
    del calls
    launcher = kind(tmp_path)
    yield launcher
    launcher.close()


def _median_and_p95(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.3f} / {ordered[int(0.95 * (len(ordered) - 1))]:.3f} s"


def _time_to_sbatch(
    contender: Contender, waits_s: list[float], calls: Callable[[], Counter[str]]
) -> float:
    """Submit jobs as one; return the seconds from the call until sbatch is run."""
    before, called_s = calls()["sbatch"], 0.0
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(contender.submit, waits_s)
        while calls()["sbatch"] == before:
            if submitted.done():
                submitted.result()  # raises what has kept it from that
            time.sleep(0.001)
        called_s = time.monotonic() - began
        submitted.result()
    return called_s


def test_jobs_are_followed(
    contender: Contender,
    calls: Callable[[], Counter[str]],
    report: Callable[[str], None],
    benchmark: BenchmarkFixture,
) -> None:
    """Twenty jobs that end one second after the other: calls a minute, delay of each end."""
    waits_s = [_SHORTEST_S + number * _SPACING_S for number in range(_NUM_JOBS)]

    def follow() -> None:
        waiters = contender.submit(waits_s)
        time.sleep(15)
        before, began = calls(), time.monotonic()
        delays_s: list[float] = []

        def wait(waiter: Callable[[], Path]) -> None:
            ended = waiter()
            delays_s.append(time.time() - float(ended.read_text()))

        with ThreadPoolExecutor(_NUM_JOBS) as pool:
            watched = [pool.submit(wait, waiter) for waiter in waiters]
            time.sleep(_SHORTEST_S - 20)
            live = calls() - before
            live_s = time.monotonic() - began
            for one in watched:
                one.result()
        status = {name: live[name] for name in ("squeue", "sacct") if live[name]}
        report(
            f"{contender.name}: {_NUM_JOBS} live jobs: {status} in {live_s:.0f} s; end of a job to "
            f"its being known, median / p95: {_median_and_p95(delays_s)}; all calls {calls()}"
        )

    benchmark.pedantic(follow, rounds=1)  # type: ignore[no-untyped-call]


def test_one_job_is_submitted(
    contender: Contender,
    calls: Callable[[], Counter[str]],
    report: Callable[[str], None],
    benchmark: BenchmarkFixture,
) -> None:
    """One job after the other, from the call to sbatch's being run."""
    times_s: list[float] = []

    def submit() -> None:
        times_s.append(_time_to_sbatch(contender, [0.0], calls))

    def rest() -> tuple[tuple[()], dict[str, object]]:
        time.sleep(2)  # the job before has started
        return (), {}

    benchmark.pedantic(submit, setup=rest, rounds=_SINGLE_JOBS)  # type: ignore[no-untyped-call]

    report(
        f"{contender.name}: one job, from the call to sbatch, median / p95:"
        f" {_median_and_p95(times_s)}"
    )


def test_an_array_is_submitted(
    contender: Contender,
    calls: Callable[[], Counter[str]],
    report: Callable[[str], None],
    benchmark: BenchmarkFixture,
) -> None:
    """A thousand jobs in one call, from the call to sbatch's being run."""

    def submit() -> None:
        took_s = _time_to_sbatch(contender, [300.0] * _ARRAY, calls)
        report(f"{contender.name}: an array of {_ARRAY} in {took_s:.2f} s")

    benchmark.pedantic(submit, rounds=1)  # type: ignore[no-untyped-call]
