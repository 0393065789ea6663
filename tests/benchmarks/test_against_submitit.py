"""The launcher beside submitit on the same real cluster: submission, following, calls to Slurm."""

import json
import os
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import submitit
from pytest_benchmark.fixture import BenchmarkFixture

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.benchmarks.waiting_job import wait_and_say
from tests.cluster import availability
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions

ROOT = Path(__file__).parents[2]
_COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
_NUM_JOBS, _SPACING_S, _SHORTEST_S = 20, 1.0, 60.0
_ARRAY = 1000

pytestmark = pytest.mark.skipif(not availability.here().runs, reason=availability.here().message)


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
    with running_cluster(ClusterOptions(accounting=True, cpus=512, max_array_size=2000)) as cluster:
        _use(cluster, shims, monkeypatch)
        yield lambda: Counter(log.read_text().split())


def _use(cluster: SlurmCluster, shims: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")


def _median_and_p95(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.2f} / {ordered[int(0.95 * (len(ordered) - 1))]:.2f} s"


class _Watershed:
    """Jobs through the launcher."""

    name = "watershed"

    def __init__(self, directory: Path) -> None:
        self._config = SlurmLauncherConfig(partition="batch", time_limit="10", pack="array")
        self._launcher = SlurmLauncher(self._config, directory, state_dir=directory / "state")
        self._directory = directory

    def submit(self, waits_s: list[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""
        plans = [self._plan(number, wait_s) for number, wait_s in enumerate(waits_s)]
        jobs = self._launcher.submit_all(plans)

        def waiter(index: int) -> Callable[[], Path]:
            def wait() -> Path:
                while not self._launcher.wait(jobs[index], 60).is_final:
                    pass
                return plans[index].run_dir / "ended"

            return wait

        return [waiter(index) for index in range(len(plans))]

    def _plan(self, number: int, wait_s: float) -> JobPlan:
        run_dir = self._directory / f"{time.time_ns()}-{number}"
        run_dir.mkdir()
        (run_dir / "job.json").write_text(json.dumps({"seconds": wait_s}))
        return JobPlan(
            name="wait",
            module="tests.benchmarks.waiting_job",
            run_dir=run_dir,
            resources=SlurmResources(partition="batch", time_limit="10"),
            code_dir=ROOT,
        )

    def close(self) -> None:
        """Cancel what is left."""
        self._launcher.close()


class _Submitit:
    """Jobs through submitit."""

    name = "submitit"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._executor = submitit.AutoExecutor(folder=directory / "submitit", cluster="slurm")
        self._executor.update_parameters(
            slurm_partition="batch", timeout_min=10, slurm_array_parallelism=2000
        )
        self._jobs: list[submitit.Job[None]] = []

    def submit(self, waits_s: list[float]) -> list[Callable[[], Path]]:
        """Submit jobs as one; each function waits for one, and returns its file."""
        paths = [self._directory / f"{time.time_ns()}-{n}" for n in range(len(waits_s))]
        jobs = self._executor.map_array(wait_and_say, paths, waits_s)
        self._jobs += jobs

        def waiter(index: int) -> Callable[[], Path]:
            def wait() -> Path:
                jobs[index].result()
                return paths[index]

            return wait

        return [waiter(index) for index in range(len(jobs))]

    def close(self) -> None:
        """Cancel what is left."""
        for job_id in {job.job_id.partition("_")[0] for job in self._jobs}:
            subprocess.run(["scancel", job_id], check=False)


@pytest.mark.parametrize("kind", [_Watershed, _Submitit])
def test_jobs_are_followed(
    kind: type[_Watershed] | type[_Submitit],
    tmp_path: Path,
    calls: Callable[[], Counter[str]],
    report: Callable[[str], None],
    benchmark: BenchmarkFixture,
) -> None:
    """Twenty jobs that end one second after the other: calls a minute, delay of each end."""
    launcher = kind(tmp_path)
    waits_s = [_SHORTEST_S + number * _SPACING_S for number in range(_NUM_JOBS)]

    def follow() -> None:
        waiters = launcher.submit(waits_s)
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
            f"{launcher.name}: {_NUM_JOBS} live jobs: {status} in {live_s:.0f} s; end of a job to "
            f"its being known, median / p95: {_median_and_p95(delays_s)}; all calls {calls()}"
        )

    try:
        benchmark.pedantic(follow, rounds=1)  # type: ignore[no-untyped-call]
    finally:
        launcher.close()


@pytest.mark.parametrize("kind", [_Watershed, _Submitit])
def test_an_array_is_submitted(
    kind: type[_Watershed] | type[_Submitit],
    tmp_path: Path,
    calls: Callable[[], Counter[str]],
    report: Callable[[str], None],
    benchmark: BenchmarkFixture,
) -> None:
    """A thousand jobs in one call, from the call to sbatch's having answered."""
    launcher = kind(tmp_path)

    def submit() -> None:
        before = calls()["sbatch"]
        began = time.monotonic()
        launcher.submit([300.0] * _ARRAY)
        while calls()["sbatch"] == before:
            time.sleep(0.005)
        report(f"{launcher.name}: an array of {_ARRAY} in {time.monotonic() - began:.2f} s")

    try:
        benchmark.pedantic(submit, rounds=1)  # type: ignore[no-untyped-call]
    finally:
        launcher.close()
