"""The launcher's own time: from a plan to the call of sbatch, after a restart, while it follows."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.commands import SlurmCli
from tasks.slurm.entries import LedgerState
from tasks.slurm.plan import JobPlan
from tasks.slurm.reconciler import STEP_S
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.fakes.jobs import Work
from tests.fakes.scripts import Size
from tests.fakes.slurm import FakeSlurm
from tests.unit.slurm.world import World

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


def test_a_restart(
    tmp_path: Path, benchmark: BenchmarkFixture, report: Callable[[str], None]
) -> None:
    """A thousand live jobs, half of which have ended meanwhile: known again in 5 s by two calls."""
    world = World(tmp_path, work=lambda _: Work(duration_s=86_400.0), size=Size(num_nodes=100))
    world.register([world.plan(f"r{number}") for number in range(_ARRAY)])
    world.run(lambda: set(world.states()) == {LedgerState.RUNNING}, 100)
    world.die()
    for run in world.slurm.incarnations(world.entries()[0].name)[: _ARRAY // 2]:
        world.slurm.controller.finished(run, 0)
    world.slurm.advance(600.0)
    since_s = world.now_s

    def restart() -> None:
        reconciler = world.begin()
        while world.states().count(LedgerState.FINISHED) < _ARRAY // 2:
            reconciler.step()

    began, worked = time.perf_counter(), time.process_time()
    benchmark.pedantic(restart, rounds=1)  # type: ignore[no-untyped-call]

    report(
        f"restart with {_ARRAY} live jobs, {_ARRAY // 2} of which have ended: "
        f"{time.perf_counter() - began:.2f} s ({time.process_time() - worked:.2f} s of a core, the "
        f"fake's answers included), {world.slurm.num_calls(since_s=since_s)} calls"
    )


@pytest.mark.parametrize("number", [1, 100, 10_000])
def test_a_step_with_many_jobs(
    number: int, tmp_path: Path, benchmark: BenchmarkFixture, report: Callable[[str], None]
) -> None:
    """What following costs a login host while nothing happens, and how often Slurm is asked."""
    world = World(
        tmp_path,
        work=lambda _: Work(duration_s=86_400.0),
        config=SlurmLauncherConfig(),
        size=Size(num_nodes=700),
        beat_every_s=0.0,
    )
    world.register([world.plan(f"r{index}") for index in range(number)])
    world.run(lambda: set(world.states()) == {LedgerState.RUNNING}, 600, stride_s=1.0)
    reconciler = world.reconciler or world.begin()
    since_s = world.now_s
    own_s = 0.0

    def follow() -> None:
        nonlocal own_s
        while world.now_s < since_s + 300:
            began = time.process_time()
            reconciler.step()
            own_s += time.process_time() - began
            world.slurm.advance(STEP_S)

    benchmark.pedantic(follow, rounds=1)  # type: ignore[no-untyped-call]

    report(
        f"following {number} jobs for 5 minutes: {world.slurm.num_calls(since_s=since_s) / 5:.1f} "
        f"calls a minute, {100 * own_s / 300:.1f} % of a core (the fake's answers included)"
    )
