"""The reconciler on a fake Slurm and a virtual clock: hours of it in a second."""

import shutil
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.runtime.records import Costs
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.entries import LedgerState
from tasks.slurm.plan import SERVER_MODULE
from tests.fakes.jobs import Work
from tests.fakes.scripts import Size
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import (
    DAY,
    SINGLE,
    STATUS,
    World,
)

# --- the usual life ------------------------------------------------------------------------------


def test_jobs_run_to_their_end(tmp_path: Path) -> None:
    """Five jobs are one array, one sbatch; each ends with its own result and its costs."""
    world = World(tmp_path)
    world.register([world.plan(f"r{number}") for number in range(5)])

    world.run(world.are_over)
    world.run(10)

    assert world.states() == [LedgerState.FINISHED] * 5
    assert world.slurm.num_calls("sbatch") == 1
    for entry in world.entries():
        text = RunDirectory(Path(entry.run_dir)).costs.read_text()
        (cost,) = Costs.model_validate_json(text).attempts
        assert (cost.slurm_job, cost.state, cost.elapsed_s) == (entry.slurm_job, "COMPLETED", 60)


def test_an_end_is_noticed_between_the_regular_looks(tmp_path: Path) -> None:
    """The exit file is seen, and Slurm asked to confirm it: within 2 s, though it settles late."""
    world = World(tmp_path, config=SINGLE)
    for number in range(20):
        world.register([world.plan(f"r{number}")])
        world.run(7.3)

    world.run(world.are_over)

    delays_s = []
    for entry in world.entries():
        (run,) = world.slurm.incarnations(entry.name)
        (submission,) = world.ledger.submissions(entry.run_dir)
        delays_s.append((submission.ended_s or 0.0) - (run.ended_s or 0.0))
    assert max(delays_s) <= 2.0


def test_an_allocation_is_over_with_its_last_run(tmp_path: Path) -> None:
    """Runs that failed in it are known as soon as none goes on; good ends before that."""
    config = SINGLE.model_copy(update={"pack": "allocation"})
    world = World(tmp_path, work=lambda _: Work(duration_s=4, exit_code=1), config=config)
    world.register([world.plan(name) for name in "abc"])
    world.run(2.0)

    world.run(world.are_over, 8)

    assert world.states() == [LedgerState.FAILED] * 3


def test_a_start_is_noticed_without_asking_slurm(tmp_path: Path) -> None:
    """The started file is enough to say that a job runs."""
    world = World(tmp_path, work=lambda _: DAY)
    world.register([world.plan("a")])

    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 5)

    assert world.slurm.num_calls("squeue") == 0


# --- how often Slurm is asked --------------------------------------------------------------------


@pytest.mark.parametrize("num_jobs", [1, 100, 1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_status_calls_do_not_grow_with_the_jobs(tmp_path: Path, num_jobs: int) -> None:
    """Two a minute, while one or ten thousand jobs run and nothing happens."""
    world = World(
        tmp_path,
        work=lambda _: DAY,
        config=SlurmLauncherConfig(),
        size=Size(num_nodes=700),
        beat_every_s=0.0,
    )
    world.register([world.plan(f"r{number}") for number in range(num_jobs)])
    stride_s = 0.2 if num_jobs < 1000 else 2.0
    running = {LedgerState.RUNNING}
    world.run(lambda: set(world.states()) == running, 3600, stride_s=stride_s)
    since_s = world.now_s

    world.run(300.0, stride_s=stride_s)

    assert world.slurm.num_calls(*STATUS, since_s=since_s) <= 10
    assert world.slurm.num_calls("sbatch") == 1


def test_ten_processes_ask_no_more_than_one(tmp_path: Path) -> None:
    """Nine of ten reconcilers follow the first, and make no call at all."""
    world = World(tmp_path, work=lambda _: DAY, config=SlurmLauncherConfig())
    world.submit(*(f"r{number}" for number in range(10)))
    leader = world.reconciler
    others = [world.another() for _ in range(9)]
    since_s = world.now_s

    while world.now_s < since_s + 600:
        for one in (leader, *others):
            assert one is not None
            one.step()
        world.slurm.advance(0.5)

    assert 15 <= world.slurm.num_calls(*STATUS, since_s=since_s) <= 20


def test_nothing_is_asked_when_there_is_nothing_to_follow(tmp_path: Path) -> None:
    """An idle leader, before and after its jobs, makes no call."""
    world = World(tmp_path)
    world.run(600.0)
    calls = world.slurm.num_calls()
    world.register([world.plan("a")])
    world.run(world.are_over)
    world.run(60.0)
    since_s = world.now_s

    world.run(600.0)

    assert calls == 0
    assert world.slurm.num_calls(since_s=since_s) == 0


@pytest.mark.parametrize(
    ("pack", "num_jobs"),
    [
        ("array", 500),
        ("single", 250),
        pytest.param("array", 1000, marks=pytest.mark.slow),
        pytest.param("single", 1000, marks=pytest.mark.slow),
    ],
)
def test_a_large_sweep_ends_under_a_small_limit(tmp_path: Path, pack: str, num_jobs: int) -> None:
    """Hundreds of jobs with 40 calls, of which 4 a minute come back; never more than these."""
    config = SlurmLauncherConfig(pack=pack, call_burst=40, calls_per_minute=4)
    world = World(tmp_path, config=config, size=Size(num_nodes=100))
    world.register([world.plan(f"r{number}") for number in range(num_jobs)])

    world.run(world.are_over, stride_s=10.0)

    assert world.states() == [LedgerState.FINISHED] * num_jobs
    assert sorted(world.node.begun.values()) == [1] * num_jobs
    for window_s in (60.0, 600.0, 3600.0):
        assert world.slurm.most_calls(window_s) <= 40 + 4 * window_s / 60 + 1


def test_the_narrowest_limit_of_all_studies_holds(tmp_path: Path) -> None:
    """While a study with a small bucket has jobs, nobody spends more."""
    world = World(tmp_path, work=lambda _: DAY, config=SINGLE)
    small = SlurmLauncherConfig(call_burst=5, calls_per_minute=2)
    other = world.path / "other"
    plan = world.plan("x").model_copy(update={"run_dir": other / "x"})
    plan.run_dir.mkdir(parents=True)

    world.ledger.register(other, small, [plan], world.now_s)
    world.register([world.plan(f"r{number}") for number in range(50)])
    world.run(300.0)

    assert world.slurm.num_calls() <= 5 + 2 * 5 + 1


# --- limits --------------------------------------------------------------------------------------


def test_a_limit_on_submissions_is_worked_around(tmp_path: Path) -> None:
    """An array that is too large is halved until it is taken; the rest follows as there is room."""
    world = World(tmp_path, faults=Faults(max_submit=20), size=Size(num_nodes=1, cpus=16))
    world.register([world.plan(f"r{number}") for number in range(100)])

    world.run(world.are_over, 10_000)

    assert world.states() == [LedgerState.FINISHED] * 100
    assert sorted(world.node.begun.values()) == [1] * 100
    assert world.slurm.num_calls("sbatch") < 60


@pytest.mark.parametrize("pack", ["single", "array"])
def test_no_more_run_at_a_time_than_allowed(tmp_path: Path, pack: str) -> None:
    """Jobs of their own are held back here, tasks of an array by Slurm."""
    config = SlurmLauncherConfig(pack=pack, max_running=3, calls_per_minute=600, call_burst=1000)
    world = World(tmp_path, config=config)
    world.register([world.plan(f"r{number}") for number in range(10)])
    most = 0

    def are_over() -> bool:
        nonlocal most
        runs = [run for runs in world.slurm.controller.history.values() for run in runs]
        most = max(most, sum(run.is_running for run in runs))
        return world.are_over()

    world.run(are_over, 2000)

    assert most == 3
    assert world.states() == [LedgerState.FINISHED] * 10


@pytest.mark.parametrize("table", ["jobs", "studies"])
def test_what_cannot_be_read_stops_nobody_else(tmp_path: Path, table: str) -> None:
    """A row of another version fails, with words, whether planned or running; the rest goes on."""
    world = World(tmp_path, config=SINGLE)
    world.submit("running")
    column = {"jobs": "plan", "studies": "launcher"}[table]
    world.register([world.plan("planned")])
    with world.ledger.file.transaction() as connection:
        connection.execute(f"UPDATE {table} SET {column} = '{{\"later\": 1}}'")  # noqa: S608
    other = world.plan("other")
    world.ledger.register(tmp_path, SINGLE, [other], world.now_s)

    world.run(world.are_over, 300)

    assert world.is_in("other", LedgerState.FINISHED)
    assert world.is_in("running", LedgerState.FINISHED)
    assert world.is_in("planned", LedgerState.FAILED)
    assert "another version of Watershed has planned it" in world.result("planned")[2]


def test_a_run_whose_directory_was_removed_fails(tmp_path: Path) -> None:
    """It would never be submitted, and be waited for; the others of its array go on."""
    world = World(tmp_path)
    world.register([world.plan("a"), world.plan("b"), world.plan("c")])
    shutil.rmtree(world.study_dir / "runs" / "b")

    world.run(world.are_over, 300)

    assert world.states() == [LedgerState.FINISHED, LedgerState.FAILED, LedgerState.FINISHED]
    assert "was removed" in world.entry("b").message


def test_a_server_leaves_the_limit_to_its_workers(tmp_path: Path) -> None:
    """Both must run at the same time, or neither comes to an end."""
    config = SINGLE.model_copy(update={"pack": "array", "max_running": 2})
    world = World(tmp_path, work=lambda _: DAY)
    server = world.plan("server").model_copy(update={"module": SERVER_MODULE})
    world.register([server], config)
    world.run(lambda: world.is_in("server", LedgerState.RUNNING), 60)

    world.register([world.plan(f"w{number}") for number in range(4)], config)
    world.run(60.0)

    assert sorted(world.states()) == ["running"] * 3 + ["submitted"] * 2


def test_studies_take_turns(tmp_path: Path) -> None:
    """A study with many jobs does not keep another one waiting for its first."""
    config = SlurmLauncherConfig(pack="single", call_burst=10, calls_per_minute=4)
    world = World(tmp_path, work=lambda _: DAY, config=config)
    world.register([world.plan(f"r{number}") for number in range(100)])
    world.run(60.0)
    other = world.path / "other"
    plan = world.plan("x").model_copy(update={"run_dir": other / "x"})
    plan.run_dir.mkdir(parents=True)

    world.ledger.register(other, config, [plan], world.now_s)
    since_s = world.now_s
    world.run(lambda: world.ledger.states(other) != {str(plan.run_dir): LedgerState.PLANNED}, 900)

    assert world.now_s - since_s <= 60.0


# --- successors ----------------------------------------------------------------------------------


def test_a_restart_with_a_thousand_jobs_takes_two_calls(tmp_path: Path) -> None:
    """The states of all of them are up to date again within 5 s."""
    world = World(tmp_path, work=lambda _: DAY, size=Size(num_nodes=100))
    world.register([world.plan(f"r{number}") for number in range(1000)])
    world.run(lambda: set(world.states()) == {LedgerState.RUNNING}, 100)
    world.die()
    for run in world.slurm.incarnations(world.entries()[0].name)[:500]:
        world.slurm.controller.finished(run, 0)
    world.slurm.advance(400.0)
    since_s = world.now_s

    world.run(5.0)

    assert world.states().count(LedgerState.FINISHED) == 500
    assert world.slurm.num_calls(*STATUS, since_s=since_s) == 2
