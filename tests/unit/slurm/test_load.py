"""What waiting costs others: how often ledger and lock are asked while nothing happens."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.entries import LedgerState
from tests.fakes.jobs import Work
from tests.fakes.scripts import Size
from tests.unit.slurm.world import World

DAY = Work(duration_s=86_400.0)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose ledgers are on a network file system, as far as the mounts tell."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw,local_lock=none 0 0\n")
    monkeypatch.setattr("tasks.slurm.file_systems._MOUNTS", mounts)
    return tmp_path


@pytest.fixture
def num_locks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count how often a lock is asked for."""
    count, flock = 0, fcntl.flock

    def counted(file: int, operation: int) -> None:
        nonlocal count
        count += 1
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", counted)
    return lambda: count


def _idle(world: World, seconds: float) -> tuple[int, int]:
    """Let the leader do what it does while nothing happens: count steps and questions."""
    reconciler = world.reconciler or world.begin()
    questions = steps = 0

    def ask(_: str) -> None:
        nonlocal questions
        questions += 1

    connection = reconciler._ledger.file._connection
    connection.set_trace_callback(ask)
    end_s = world.now_s + seconds
    while world.now_s < end_s:
        world.slurm.advance(reconciler.step())
        steps += 1
    connection.set_trace_callback(None)
    return steps, questions


def test_an_idle_leader_asks_a_ledger_on_a_network_about_once_a_second(network: Path) -> None:
    """While a job runs: one question a second, and a look through everything every five."""
    world = World(network, work=lambda _: DAY)
    world.register([world.plan("a")])
    world.run(lambda: world.states() == [LedgerState.RUNNING], 60)
    world.run(60.0, stride_s=1.0)

    steps, questions = _idle(world, 100.0)

    assert steps <= 105
    assert questions <= 250


def test_ends_among_a_hundred_jobs_are_known_within_two_seconds(tmp_path: Path) -> None:
    """95 % of them, though the file system is asked sparingly; Slurm itself takes half a second."""
    config = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
    size = Size(num_nodes=10)
    world = World(
        tmp_path,
        work=lambda run: Work(60.0 + 1.3 * int(run.job)),
        config=config,
        size=size,
    )
    world.register([world.plan(f"r{number:03}") for number in range(100)])

    world.run(world.are_over)

    delays_s = []
    for entry in world.entries():
        (run,) = world.slurm.incarnations(entry.name)
        (submission,) = world.ledger.submissions(entry.run_dir)
        delays_s.append((submission.ended_s or 0.0) - (run.ended_s or 0.0))
    delays_s.sort()
    assert delays_s[50] <= 1.0
    assert delays_s[95] <= 2.0


def test_what_is_new_on_a_network_is_found_at_the_next_step(network: Path) -> None:
    """Plans and wishes of other processes wait a second, and not five."""
    world = World(network, work=lambda _: DAY)
    world.run(7.0, stride_s=1.0)

    world.register([world.plan("a")])
    world.run(2.0, stride_s=1.0)
    submitted = world.slurm.num_calls("sbatch")
    world.run(lambda: world.states() == [LedgerState.RUNNING], 60)
    world.run(13.0, stride_s=1.0)
    world.ledger.wish_cancel([entry.run_dir for entry in world.entries()], world.now_s)
    world.run(2.0, stride_s=1.0)

    assert submitted == 1
    assert world.slurm.num_calls("scancel") == 1


@pytest.mark.parametrize(("is_on_network", "most"), [(False, 51), (True, 21)])
def test_followers_leave_the_lock_alone(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    num_locks: Callable[[], int],
    most: int,
    *,
    is_on_network: bool,
) -> None:
    """Who does not lead asks for the lock every few seconds, and leads soon after it is free."""
    if is_on_network:
        request.getfixturevalue("network")
    world = World(tmp_path)
    world.begin().step()
    other = world.another()
    before, end_s = num_locks(), world.now_s + 100.0

    while world.now_s < end_s:
        world.slurm.advance(max(other.step(), 0.1))
    asked = num_locks() - before
    world.die()
    free_s = world.now_s
    while not other._leadership.is_held:
        world.slurm.advance(max(other.step(), 0.1))

    assert asked <= most
    assert world.now_s - free_s <= 6.0
