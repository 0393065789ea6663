"""Cancelling: a wish that stands in the ledger, and what the reconciler makes of it."""

from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.bucket import MOST_OWED
from tasks.slurm.entries import LedgerState
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.scripts import Size
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import (
    DAY,
    SINGLE,
    World,
)


@pytest.mark.parametrize("where", ["running", "queued", "planned", "doubt"])
def test_a_wish_is_carried_out_within_ten_seconds(tmp_path: Path, where: str) -> None:
    """Wherever the job is by then; jobs of others and of other studies go on."""
    faults = Faults(accept_then_timeout=1.0) if where == "doubt" else Faults()
    size = Size(num_nodes=1, cpus=1) if where == "queued" else Size()
    config = SINGLE.model_copy(update={"max_running": 1}) if where == "planned" else SINGLE
    world = World(tmp_path, work=lambda _: DAY, faults=faults, size=size, config=config)
    by_hand = world.submit_anothers()
    world.register([world.plan("kept"), world.plan("a")])
    world.run(5.0 if where == "doubt" else 20.0)
    run_dir = world.entry("a").run_dir
    if where == "doubt":
        world.run(lambda: world.is_in("a", LedgerState.SUBMITTING), 100)
    since_s = world.now_s

    world.ledger.wish_cancel([run_dir], world.now_s)
    world.run(lambda: world.is_in("a", LedgerState.INTERRUPTED), 60)

    assert world.now_s - since_s <= 10.0
    assert not world.entry("kept").state.job_state.is_final
    assert world.slurm.incarnations(by_hand)[0].ended_s is None
    assert all(run.ended_s for run in world.slurm.incarnations(world.entry("a").name))


@pytest.mark.parametrize("is_killed", [True, False])
@pytest.mark.parametrize("pack", ["single", "array", "allocation"])
def test_what_is_asked_for_again_while_it_dies_begins_anew(
    tmp_path: Path, pack: str, *, is_killed: bool
) -> None:
    """Its end is waited for; also by a successor, if the process that was asked is killed."""
    config = SlurmLauncherConfig.model_validate(
        {"pack": pack, "calls_per_minute": 600, "call_burst": 1000}
    )

    def work(run: Incarnation) -> Work:
        is_first = run.request.name.endswith("-1")
        return Work(86_400.0, saves_in_s=None) if is_first else Work(60.0)

    world = World(tmp_path, work=work, config=config)
    world.submit("a", "b")
    plans = [world.plan(name) for name in "ab"]
    first = world.run_of("a")

    world.ledger.wish_cancel([str(plan.run_dir) for plan in plans], world.now_s)
    world.run(5.0)
    assert world.is_in("a", LedgerState.RUNNING)  # KillWait is not over
    world.register(plans)
    if is_killed:
        world.begin()
    world.run(world.are_over, 400)

    assert world.states() == [LedgerState.FINISHED] * 2
    again = world.run_of("a")
    assert first.ended_s is not None
    assert again.started_s is not None
    assert again.started_s >= first.ended_s
    assert [one.submission for one in world.ledger.submissions(str(plans[0].run_dir))] == [1, 2]


def test_who_cancels_again_what_was_asked_for_again_means_it(tmp_path: Path) -> None:
    """The last wish counts; and what finishes all the same is not run once more."""
    works = iter([Work(86_400.0, saves_in_s=None), Work(25.0, saves_in_s=None)])
    world = World(tmp_path, work=lambda _: next(works), config=SINGLE)
    world.submit("a", "b")
    plans = [world.plan(name) for name in "ab"]
    run_dirs = [str(plan.run_dir) for plan in plans]

    world.ledger.wish_cancel(run_dirs, world.now_s)
    world.register(plans)
    world.ledger.wish_cancel(run_dirs[:1], world.now_s)
    world.run(world.are_over, 400)

    states = {entry.run_dir: entry.state for entry in world.entries()}
    assert states == {run_dirs[0]: LedgerState.INTERRUPTED, run_dirs[1]: LedgerState.FINISHED}
    assert len(world.ledger.submissions(run_dirs[0])) == 1


def test_one_task_of_an_array_is_cancelled(tmp_path: Path) -> None:
    """The others go on."""
    world = World(tmp_path, work=lambda _: DAY)
    world.submit("a", "b", "c")

    world.ledger.wish_cancel([world.entry("b").run_dir], world.now_s)
    world.run(lambda: world.is_in("b", LedgerState.INTERRUPTED), 10)
    world.run(60.0)

    assert [e.state.value for e in world.entries()] == ["running", "interrupted", "running"]
    assert world.result("b") == ("interrupted", "", "")


def test_tasks_that_have_not_begun_are_cancelled_together(tmp_path: Path) -> None:
    """Squeue then lists them by the array's id alone, and that is understood."""
    config = SlurmLauncherConfig(max_running=1, calls_per_minute=600, call_burst=1000)
    faults = Faults(no_accounting=True)
    world = World(tmp_path, work=lambda _: DAY, config=config, faults=faults)
    world.register([world.plan(name) for name in "abc"])
    world.run(20.0)

    world.ledger.wish_cancel([entry.run_dir for entry in world.entries()], world.now_s)
    world.run(world.are_over, 10)

    assert world.states() == [LedgerState.INTERRUPTED] * 3


def test_a_cancellation_needs_no_token(tmp_path: Path) -> None:
    """With an empty bucket the wish is carried out in time all the same."""
    config = SlurmLauncherConfig(pack="single", call_burst=4, calls_per_minute=1)
    world = World(tmp_path, work=lambda _: DAY, config=config)
    world.register([world.plan("a"), world.plan("b")])
    world.run(300.0)
    since_s = world.now_s

    world.ledger.wish_cancel([e.run_dir for e in world.entries()], world.now_s)
    world.run(world.are_over, 60)

    assert world.now_s - since_s <= 10.0


def test_a_wish_is_kept_while_slurm_is_down(tmp_path: Path) -> None:
    """It is carried out within ten seconds of the controller's return, also by a successor."""
    faults = Faults(controller_down=((30.0, 130.0),))
    world = World(tmp_path, work=lambda _: DAY, faults=faults)
    world.submit("a")
    world.run(lambda: world.now_s > world.slurm.start_s + 31)

    world.ledger.wish_cancel([world.entry("a").run_dir], world.now_s)
    world.run(50.0)
    world.begin()
    world.run(world.are_over, 100)

    # A call that began while it was down may take 9 s to say so.
    assert world.now_s - (world.slurm.start_s + 130) <= 10.0 + 9.0


def test_a_wish_asks_a_slurm_that_fails_at_once_no_more_than_it_must(tmp_path: Path) -> None:
    """Rarer and rarer, at the price of few tokens: with the answer all goes on, submissions too."""
    config = SlurmLauncherConfig(pack="single", call_burst=40, calls_per_minute=4)
    faults = Faults(failing=(("squeue", 60.0, 180.0),))
    world = World(tmp_path, work=lambda _: DAY, config=config, faults=faults)
    world.submit("a")
    world.run(lambda: world.now_s >= world.slurm.start_s + 61)
    asked = world.slurm.num_calls("squeue")

    world.ledger.wish_cancel([world.entry("a").run_dir], world.now_s)
    world.run(1.0)
    num_first = world.slurm.num_calls("squeue") - asked
    world.run(lambda: world.now_s >= world.slurm.start_s + 180)
    num_calls = world.slurm.num_calls("squeue") - asked
    world.register([world.plan("b")])
    world.run(lambda: world.is_in("a", LedgerState.INTERRUPTED), 10)
    world.run(lambda: world.is_in("b", LedgerState.RUNNING), 60)

    assert num_first == 1  # it may be well again
    assert 8 <= num_calls <= 20


def test_a_long_trouble_leaves_a_debt_that_is_soon_paid(tmp_path: Path) -> None:
    """After half an hour with a wish: cancelled soon, the next one submitted in some minutes."""
    config = SlurmLauncherConfig(pack="single", call_burst=40, calls_per_minute=4)
    faults = Faults(failing=(("squeue", 60.0, 1800.0),))
    world = World(tmp_path, work=lambda _: DAY, config=config, faults=faults)
    world.submit("a")
    world.run(lambda: world.now_s >= world.slurm.start_s + 61)

    world.ledger.wish_cancel([world.entry("a").run_dir], world.now_s)
    world.run(lambda: world.now_s >= world.slurm.start_s + 1800, stride_s=1.0)
    world.register([world.plan("b")])
    num_calls = world.slurm.num_calls()
    world.run(lambda: world.is_in("a", LedgerState.INTERRUPTED), 60)
    world.run(lambda: world.is_in("b", LedgerState.RUNNING), 300)

    assert 40 + 4 * 1800 / 60 <= num_calls <= 40 + MOST_OWED + 4 * 1800 / 60


def test_an_scancel_that_fails_is_not_repeated_at_every_step(tmp_path: Path) -> None:
    """It is tried less and less often; a wish that is new is tried at once."""
    faults = Faults(failing=(("scancel", 0.0, 300.0),))
    world = World(tmp_path, work=lambda _: DAY, config=SINGLE, faults=faults)
    world.submit("a", "b")
    asked = world.slurm.num_calls("squeue")

    world.ledger.wish_cancel([world.entry("a").run_dir], world.now_s)
    world.run(120.0)
    num_calls = world.slurm.num_calls("scancel"), world.slurm.num_calls("squeue") - asked
    wished_s = world.now_s
    world.ledger.wish_cancel([world.entry("b").run_dir], world.now_s)
    world.run(2.0)
    num_new = world.slurm.num_calls("scancel", since_s=wished_s)
    world.run(lambda: world.now_s >= world.slurm.start_s + 300)
    world.run(world.are_over, 20)

    assert num_calls <= (20, 30)
    assert num_calls[0] >= 8
    assert num_new == 1
