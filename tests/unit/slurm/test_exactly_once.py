"""No job is lost and none is run twice, wherever the orchestrator is killed.

A process is killed at commands (before Slurm hears of it; after it has acted, before we hear of
that) and at commits (before, after). The cluster goes on, and a successor finds what is there. The
nodes follow the wrapper's own rule of claims, and count.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.entries import LedgerState
from tests.fakes.jobs import Work
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import Killed, Point, World

SHORT = Work(duration_s=4.0)
PLENTY = {"calls_per_minute": 600, "call_burst": 1000}


def _kill_at(numbers: Iterator[int]) -> tuple[Point, list[str]]:
    """Return what kills a process after so many more points, again and again, and where it did."""
    killed: list[str] = []
    left = next(numbers, None)

    def point(name: str) -> None:
        nonlocal left
        if left is None:
            return
        left -= 1
        if left < 0:
            left = next(numbers, None)
            killed.append(name)
            raise Killed(name)

    return point, killed


def _live(world: World, numbers: Iterator[int], downtimes_s: Iterator[float]) -> list[str]:
    """Run processes, each killed in its turn, until all jobs are over and their costs written."""
    point, killed = _kill_at(numbers)

    def is_done() -> bool:
        return world.are_over() and not world.ledger.owes_costs(world.study_dir)

    while not is_done():
        try:
            world.begin(point)
            world.run(is_done, limit_s=20_000)
        except Killed:
            world.die()
            world.slurm.advance(next(downtimes_s, 0.0))
    return killed


def _check(world: World, count: int) -> None:
    """Every job has finished, once, and no two jobs of Slurm ever ran the same one at a time."""
    assert world.states() == [LedgerState.FINISHED] * count
    assert sorted(world.node.finished.values()) == [1] * count
    assert world.node.overlaps == []


@pytest.mark.parametrize("pack", ["single", "array", "allocation"])
def test_every_single_point_of_death(tmp_path: Path, pack: str) -> None:
    """Killed once, at the first point, the second, ..., until a life has no more points."""
    config = SlurmLauncherConfig(pack=pack, **PLENTY)
    names = []

    for number in range(10_000):
        path = tmp_path / str(number)
        path.mkdir()
        world = World(path, work=lambda _: SHORT, config=config)
        world.register([world.plan("a"), world.plan("b")])
        killed = _live(world, iter([number]), iter([]))
        _check(world, 2)
        assert [run for run in world.node.refused if run[0].name in "ab"] == []
        assert sum(world.node.begun.values()) == 2
        if not killed:
            break
        names += killed

    # The points that matter most are among them; the others depend on how often we look.
    num_calls = 2 if pack == "single" else 1
    assert names.count("before sbatch") == names.count("after sbatch") == num_calls
    assert {"before a commit", "after a commit", "before sacct", "after sacct"} <= set(names)


@pytest.mark.parametrize("first", range(12))
def test_every_pair_of_points_of_death_around_a_submission(tmp_path: Path, first: int) -> None:
    """The successor that clears up may be killed at each of its points, too."""
    for second in range(12):
        path = tmp_path / str(second)
        path.mkdir()
        world = World(path, work=lambda _: SHORT)
        world.register([world.plan("a")])

        _live(world, iter([first, second]), iter([]))

        _check(world, 1)
        assert sum(world.node.begun.values()) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    pack=st.sampled_from(["single", "array", "allocation"]),
    kills=st.lists(st.integers(0, 40), max_size=20),
    downtimes_s=st.lists(st.sampled_from([0.0, 1.0, 7.0, 40.0]), max_size=20),
    num_jobs=st.integers(1, 7),
    has_accounting=st.booleans(),
    is_cut=st.booleans(),
    is_down=st.booleans(),
)
@example(
    seed=1,
    pack="array",
    kills=[3] * 20,
    downtimes_s=[],
    num_jobs=3,
    has_accounting=True,
    is_cut=True,
    is_down=True,
)
def test_nothing_is_lost_and_nothing_runs_twice(
    seed: int,
    pack: str,
    kills: list[int],
    downtimes_s: list[float],
    num_jobs: int,
    has_accounting: bool,  # noqa: FBT001  drawn by name
    is_cut: bool,  # noqa: FBT001
    is_down: bool,  # noqa: FBT001
) -> None:
    """Whenever it is killed, and though a fifth of the submissions is accepted and not answered."""
    faults = Faults(
        accept_then_timeout=0.2,
        timeout=0.02,
        truncate=0.05 if is_cut else 0.0,
        controller_down=((20.0, 90.0),) if is_down else (),
        no_accounting=not has_accounting,
    )
    config = SlurmLauncherConfig(pack=pack, **PLENTY)

    with tempfile.TemporaryDirectory() as path:
        world = World(Path(path), faults=faults, seed=seed, config=config)
        plans = [world.plan(f"r{number}") for number in range(num_jobs)]
        world.register(plans[: num_jobs // 2 + 1])
        world.register(plans)
        _live(world, iter(kills), iter(downtimes_s))

        _check(world, num_jobs)
        assert sum(world.node.begun.values()) == num_jobs
        assert world.node.refused == []


@pytest.mark.parametrize("seed", range(8))
def test_a_controller_that_forgets(tmp_path: Path, seed: int) -> None:
    """Killed, it forgets the last 5 s and gives their ids to a stranger: nothing is lost by it."""
    rng = Random(seed)
    faults = Faults(
        accept_then_timeout=0.2,
        crash_at=(rng.uniform(0, 10), rng.uniform(20, 100)),
        stranger_takes_id=True,
        no_accounting=bool(seed % 2),
    )
    world = World(tmp_path, faults=faults, seed=seed)
    stranger = {"other"}
    for number in range(5):
        world.register([world.plan(f"r{number}")])
        world.run(rng.uniform(0, 4))

    _live(world, iter([]), iter([]))

    _check(world, 5)
    runs = [run for runs in world.slurm.controller.history.values() for run in runs]
    cancelled = {run.request.name for run in runs if run.state.value == "CANCELLED"}
    assert cancelled.isdisjoint(stranger)
