"""The launcher's own time: from a plan to the call of sbatch, and for an array of a thousand."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.commands import SlurmCli
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.fakes.slurm import FakeSlurm

_ARRAY = 1000


class _Stopwatch:
    """A fake Slurm that notes when sbatch is called, and has answered."""

    def __init__(self) -> None:
        self._slurm = FakeSlurm(0)
        self.called_s: list[float] = []
        self.answered_s: list[float] = []

    def run(self, argv: Sequence[str], timeout_s: float) -> CompletedProcess[str]:
        """Run a command of the fake."""
        if argv[0] != "sbatch":
            return self._slurm.run(argv, timeout_s)
        self.called_s.append(time.perf_counter())
        answer = self._slurm.run(argv, timeout_s)
        self.answered_s.append(time.perf_counter())
        return answer


def _plans(directory: Path, number: int) -> list[JobPlan]:
    plans = []
    for index in range(number):
        run_dir = directory / f"{time.time_ns()}-{index}"
        run_dir.mkdir()
        plans.append(
            JobPlan(name="x", module="toy.job", run_dir=run_dir, resources=SlurmResources())
        )
    return plans


@pytest.mark.parametrize(("pack", "number"), [("single", 1), ("array", _ARRAY)])
def test_from_a_plan_to_sbatch(
    pack: str,
    number: int,
    tmp_path: Path,
    benchmark: BenchmarkFixture,
    report: Callable[[str], None],
) -> None:
    """15 ms in the median and 50 ms at the 95th percentile for one job; 2 s for a thousand."""
    stopwatch = _Stopwatch()
    config = SlurmLauncherConfig.model_validate(
        {"pack": pack, "calls_per_minute": 600, "call_burst": 10_000}
    )
    launcher = SlurmLauncher(
        config, tmp_path, slurm=SlurmCli(stopwatch.run), state_dir=tmp_path / "state", grace_s=0
    )
    times_s: list[float] = []

    def prepare() -> tuple[tuple[list[JobPlan]], dict[str, object]]:
        time.sleep(0.05)
        return (_plans(tmp_path, number),), {}

    def submit(plans: list[JobPlan]) -> None:
        num_called = len(stopwatch.called_s)
        began = time.perf_counter()
        launcher.submit_all(plans)
        while len(stopwatch.called_s) == num_called:
            time.sleep(0.0005)
        times_s.append(stopwatch.called_s[-1] - began)

    rounds = 100 if number == 1 else 3
    benchmark.pedantic(submit, setup=prepare, rounds=rounds)  # type: ignore[no-untyped-call]
    launcher.detach()

    ordered = sorted(times_s)
    report(
        f"plan to sbatch, {pack} of {number}: p50 {1e3 * ordered[len(ordered) // 2]:.1f} ms, p95 "
        f"{1e3 * ordered[int(0.95 * (len(ordered) - 1))]:.1f} ms"
    )
