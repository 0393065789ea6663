"""Jobs that the ledger does not know, and several of one name."""

import fcntl
import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.agenda import Agenda
from tasks.slurm.calls import Calls, Clock, Listing
from tasks.slurm.commands import SlurmCli
from tasks.slurm.desk import Desk
from tasks.slurm.doubts import Doubts
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.sightings import Queued
from tasks.slurm.states import SlurmState
from tasks.slurm.watching import Watch
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.scripts import Size, write_script
from tests.unit.slurm.world import (
    DAY,
    SINGLE,
    World,
)

# --- what the ledger does not know ---------------------------------------------------------------


def _claim_by_hand(world: World, name: str, **fields: object) -> Path:
    """Leave the files of a job that was not submitted by this ledger."""
    attempt = RunDirectory(world.study_dir / "runs" / name).attempt(1)
    attempt.mkdir(parents=True)
    values = {"pid": 1, "host": "n1", "timestamp_ms": 1, "submission": 3} | fields
    (attempt / "started.json").write_text(Started.model_validate(values).model_dump_json())
    return attempt


def test_a_run_that_has_finished_is_not_submitted(tmp_path: Path) -> None:
    """Whoever has finished it."""
    world = World(tmp_path)
    plan = world.plan("a")
    attempt = _claim_by_hand(world, "a", slurm_job="99")
    (attempt / "exit.json").write_text(json.dumps({"code": 0, "timestamp_ms": 2}))
    world.register([plan])

    world.run(world.are_over, 10)

    assert world.states() == [LedgerState.FINISHED]
    assert world.slurm.num_calls("sbatch") == 0


def test_a_job_of_another_ledger_is_adopted(tmp_path: Path) -> None:
    """A run directory whose job is alive is followed under that job's id, and not run again."""
    first = World(tmp_path, work=lambda _: Work(duration_s=200))
    first.submit("a")
    first.die()
    (tmp_path / "state" / "ledger.sqlite").rename(tmp_path / "lost.sqlite")
    for suffix in ("-wal", "-shm"):
        (tmp_path / "state" / f"ledger.sqlite{suffix}").unlink(missing_ok=True)

    second = first.reopened()
    second.register([second.plan("a")])
    second.run(second.are_over, 400)

    assert second.states() == [LedgerState.FINISHED]
    assert second.slurm.num_calls("sbatch") == 1
    assert sum(second.node.begun.values()) == 1


def test_a_job_of_another_ledger_can_be_cancelled(tmp_path: Path) -> None:
    """Also if nothing was followed before, and the wish is there from the first step on."""
    first = World(tmp_path, work=lambda _: DAY)
    first.submit("a")
    first.die()
    for path in (tmp_path / "state").glob("ledger.sqlite*"):
        path.unlink()
    second = first.reopened()
    second.register([second.plan("a")])
    second.run(1.0)

    second.ledger.wish_cancel([second.entry("a").run_dir], second.now_s)
    second.run(second.are_over, 15)

    assert second.states() == [LedgerState.INTERRUPTED]
    assert second.slurm.num_calls("sbatch") == 1


def test_a_leader_whose_first_read_failed_watches_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails once, while it takes over, hides no run directory from it."""
    world = World(tmp_path, work=lambda _: Work(duration_s=20))
    world.submit("a")
    world.die()
    reconciler = world.begin()
    with monkeypatch.context() as patch:
        patch.setattr(LeaderLedger, "followed", _fails)
        with pytest.raises(sqlite3.OperationalError):
            reconciler.step()
    world.run(world.are_over, 25)

    assert world.states() == [LedgerState.FINISHED]


def _fails(_: LeaderLedger) -> list[Entry]:
    raise sqlite3.OperationalError("disk I/O error")


def test_a_run_that_a_local_process_has_is_left_to_it(tmp_path: Path) -> None:
    """It is submitted when that process has gone, and is not done."""
    world = World(tmp_path)
    plan = world.plan("a")
    with RunDirectory(plan.run_dir).lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world.register([plan])
        world.run(30.0)
        calls = world.slurm.num_calls("sbatch")
    world.run(world.are_over, 100)

    assert calls == 0
    assert world.states() == [LedgerState.FINISHED]


def test_a_later_number_follows_an_attempt_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    """The node lets a submission have the run only if its number is the highest."""
    world = World(tmp_path)
    plan = world.plan("a")
    attempt = _claim_by_hand(world, "a", slurm_job="99")
    (attempt / "exit.json").write_text(json.dumps({"code": 1, "timestamp_ms": 2}))
    world.register([plan])

    world.run(world.are_over, 100)

    assert world.entry("a").submission == 4
    assert world.states() == [LedgerState.FINISHED]


# --- duplicates ----------------------------------------------------------------------------------


def _twin(world: World, name: str) -> None:
    """Let Slurm accept the script of a job once more, as an sbatch may that came late."""
    world.slurm.run(["sbatch", "--parsable", str(world.study_dir / "runs" / name / "job.sh")], 30)


def test_of_two_jobs_of_a_name_the_one_that_has_begun_is_kept(tmp_path: Path) -> None:
    """The other one is cancelled before it costs anything, or refused by the node."""
    world = World(tmp_path, work=lambda _: DAY, size=Size(num_nodes=1, cpus=1))
    world.submit("a")

    _twin(world, "a")
    world.run(60.0)

    runs = world.slurm.incarnations(world.entry("a").name)
    assert [(run.slurm_job, run.state) for run in runs] == [
        ("1", SlurmState.RUNNING),
        ("2", SlurmState.CANCELLED),
    ]


def test_the_job_that_has_the_run_is_followed(tmp_path: Path) -> None:
    """If the twin was first to claim it, ours is refused, and the twin's end is the job's end."""
    world = World(tmp_path, work=lambda _: Work(duration_s=100), size=Size(num_nodes=1, cpus=1))
    blocker = world.slurm.submit_other("blocker")
    world.register([world.plan("a")])
    world.run(10.0)
    ours = world.run_of("a")
    ours.eligible_s = world.now_s + 20.0  # for some reason of Slurm's
    _twin(world, "a")
    world.slurm.controller.cancel([world.slurm.controller.history[blocker][0]])

    world.run(world.are_over, 500)

    assert world.states() == [LedgerState.FINISHED]
    assert world.node.begun.total() == 1
    assert world.node.overlaps == []


def test_a_job_that_nobody_needs_any_more_is_cancelled(tmp_path: Path) -> None:
    """Slurm queues a job again that has finished, or that was given up: it goes."""
    world = World(
        tmp_path, work=lambda run: DAY if run.request.script.parent.name == "b" else Work()
    )
    world.register([world.plan("a"), world.plan("b")], SINGLE)
    world.run(lambda: world.is_in("a", LedgerState.FINISHED), 200)

    _twin(world, "a")
    world.run(60.0)

    assert world.slurm.incarnations(world.entry("a").name)[-1].ended_s is not None
    assert world.node.begun.total() == 2
    assert replace(world.entry("b"), state=LedgerState.RUNNING) == world.entry("b")


def test_a_job_that_comes_back_from_the_dead_is_cancelled(tmp_path: Path) -> None:
    """A controller that was killed may take up a job again that is over: under the id it had."""
    world = World(tmp_path)
    world.register([world.plan("a")])
    world.run(world.are_over)
    clock = Clock(world.slurm.clock.now, world.slurm.clock.now)
    calls = Calls(SlurmCli(world.slurm.run), world.ledger, clock)
    doubts = Doubts(Desk(world.ledger, calls, Watch(), Agenda(), clock))
    name = world.entry("a").name
    listing = Listing([Queued("1", name, SlurmState.RUNNING), Queued("2", "x", SlurmState.PENDING)])

    excess = doubts.settle([], listing)

    assert excess == ["1"]


def test_a_script_that_was_submitted_by_hand_is_nobodys_to_cancel(tmp_path: Path) -> None:
    """What has failed may be run again by hand while a flow goes on, under whatever name."""
    world = World(
        tmp_path,
        work=lambda run: (
            DAY if run.request.script.parent.name == "b" else Work(duration_s=5, exit_code=1)
        ),
        size=Size(num_nodes=1, cpus=1),
    )
    world.register([world.plan("a")], SINGLE)
    world.run(world.are_over, 60)
    world.submit("b")

    _twin(world, "a")
    world.run(90.0)

    assert world.slurm.incarnations(world.entry("a").name)[-1].state is SlurmState.PENDING
    assert world.slurm.num_calls("scancel") == 0


def _block(world: World) -> None:
    """Let another job of the user take the only CPU."""
    script = write_script(world.path, "blocker")
    world.slurm.run(["sbatch", "--parsable", f"--chdir={script.parent}", str(script)], 30)
    world.run(5.0)


def _unblock(world: World) -> None:
    world.slurm.controller.cancel(world.slurm.incarnations("blocker"))


def _second(run: Incarnation) -> Work:
    """A program that fails at first, and then runs for a minute; a blocker for a day."""
    if run.request.name == "blocker":
        return DAY
    return Work(5, exit_code=3) if run.request.name.endswith("-1") else Work(60)


def _by_hand(world: World, directory: Path, *options: str) -> str:
    """Submit a script with the next number, as its header says; return Slurm's id."""
    script = directory / "job.sh"
    header = script.read_text()
    match = re.search(r"WATERSHED_SUBMISSION=(\d+) sbatch --job-name=(\S+)", header)
    assert match is not None
    argv = ["sbatch", "--parsable", f"--job-name={match[2]}", *options, str(script)]
    return world.slurm.run(argv, 30).stdout.strip()


@pytest.mark.parametrize("pack", ["single", "array"])
def test_what_its_user_has_submitted_again_by_hand_is_adopted(tmp_path: Path, pack: str) -> None:
    """A retry meanwhile gets the same number: the job by hand, which came first, is the one."""
    config = SINGLE.model_copy(update={"pack": pack})
    world = World(
        tmp_path,
        work=_second,
        size=Size(num_nodes=1, cpus=1),
        config=config,
    )
    plans = [world.plan("a")] if pack == "single" else [world.plan("a"), world.plan("b")]
    world.register(plans)
    world.run(world.are_over, 100)
    _block(world)
    directory = plans[0].run_dir if pack == "single" else next(world.study_dir.glob("batches/*"))

    by_hand = _by_hand(world, directory)
    world.register(plans)
    world.run(60.0)
    followed = {entry.slurm_job.partition("_")[0] for entry in world.entries()}
    _unblock(world)
    world.run(world.are_over, 400)

    assert followed == {by_hand}
    assert set(world.states()) == {LedgerState.FINISHED}
    begun = [world.node.begun[plan.run_dir] for plan in plans]
    assert begun == [2] * len(plans)  # the failure, and one success
    assert world.node.overlaps == []


def test_one_task_that_was_submitted_by_hand_is_left_to_its_user(tmp_path: Path) -> None:
    """It does not stand for the whole array, and is not cancelled; its run is run once."""
    world = World(
        tmp_path,
        work=_second,
        size=Size(num_nodes=1, cpus=1),
    )
    plans = [world.plan(name) for name in "abc"]
    world.register(plans)
    world.run(world.are_over, 200)
    _block(world)

    _by_hand(world, next(world.study_dir.glob("batches/*")), "--array=1")
    world.register(plans)
    world.run(60.0)
    _unblock(world)
    world.run(world.are_over, 1000)

    assert set(world.states()) == {LedgerState.FINISHED}
    assert world.slurm.num_calls("scancel") == 0
    assert [world.node.finished[plan.run_dir] for plan in plans] == [1] * 3
    assert world.node.overlaps == []
