"""The reconciler on a fake Slurm and a virtual clock: hours of it in a second."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.runtime.records import Costs, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.agenda import Agenda
from tasks.slurm.bucket import MOST_OWED
from tasks.slurm.calls import Calls, Clock, Listing
from tasks.slurm.commands import SlurmCli
from tasks.slurm.concluding import Conclusions
from tasks.slurm.desk import Desk
from tasks.slurm.doubts import Doubts
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.evidence import NOTHING
from tasks.slurm.judgement import Told, judge
from tasks.slurm.leader import Leadership
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import SERVER_MODULE
from tasks.slurm.reconciler import Reconciler
from tasks.slurm.results import slurm_output
from tasks.slurm.sightings import Queued
from tasks.slurm.states import SlurmState
from tasks.slurm.watching import Watch
from tests.fakes.controller import Timing
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.scripts import Size, write_script
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import World

DAY = Work(duration_s=86_400.0)
SINGLE = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
STATUS = ("squeue", "sacct", "scontrol")


def _entry(world: World, name: str) -> Entry:
    entry = world.ledger.entry(str(world.study_dir / "runs" / name))
    assert entry is not None
    return entry


def _run_of(world: World, name: str) -> Incarnation:
    """Return the newest incarnation of a job."""
    return world.slurm.incarnations(_entry(world, name).name)[-1]


def _result(world: World, name: str) -> tuple[str, str, str]:
    result = RunDirectory(world.study_dir / "runs" / name).read_result()
    assert result is not None
    return result.status, result.reason, result.message


def _is(world: World, name: str, *states: LedgerState) -> bool:
    return _entry(world, name).state in states


def _started(world: World, name: str) -> Incarnation:
    """Run until the newest incarnation of a job has started; return it."""
    world.run(lambda: _run_of(world, name).started_s is not None, 300)
    return _run_of(world, name)


def _requeued(world: World, name: str, run: Incarnation) -> None:
    """Run until Slurm has queued a job again."""
    world.run(lambda: _run_of(world, name) is not run, 100)


def _submit(world: World, *names: str) -> None:
    """Submit jobs, and run until Slurm has started them."""
    world.register([world.plan(name) for name in names])
    world.run(lambda: all(_is(world, name, LedgerState.RUNNING) for name in names), 300)


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

    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 5)

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
    _submit(world, *(f"r{number}" for number in range(10)))
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


# --- submissions in doubt ------------------------------------------------------------------------


def test_a_submission_that_was_not_answered_is_found_by_its_name(tmp_path: Path) -> None:
    """It is adopted at the next look, and not submitted again."""
    world = World(tmp_path, faults=Faults(accept_then_timeout=1.0))
    world.register([world.plan("a")])

    world.run(lambda: _is(world, "a", LedgerState.SUBMITTED, LedgerState.RUNNING), 35)
    world.run(world.are_over)

    assert world.slurm.num_calls("sbatch") == 1
    assert world.states() == [LedgerState.FINISHED]


def test_an_array_in_doubt_is_adopted_as_a_whole(tmp_path: Path) -> None:
    """Each of its tasks gets its id."""
    world = World(tmp_path, faults=Faults(accept_then_timeout=1.0), work=lambda _: DAY)

    _submit(world, "a", "b", "c")

    assert [entry.slurm_job for entry in world.entries()] == ["1_0", "1_1", "1_2"]


def test_a_submission_in_doubt_is_found_by_a_clock_that_runs_ahead(tmp_path: Path) -> None:
    """The accounting's times are the cluster's: up to ten minutes behind, it is not made again."""
    world = World(
        tmp_path,
        faults=Faults(accept_then_timeout=1.0),
        timing=Timing(min_job_age=2.0),
        size=Size(num_nodes=1, cpus=1),
        work=lambda _: DAY,
    )
    world.slurm.submit_other("blocker")
    world.slurm.advance(5.0)
    world.register([world.plan("a")])
    world.reconciler = Reconciler(
        SlurmCli(world.slurm.run),
        LedgerFile(tmp_path / "state" / "ledger.sqlite"),
        Leadership(tmp_path / "state" / "leader.lock"),
        clock=Clock(unix=lambda: world.now_s + 590.0, steady=lambda: world.now_s),
        file_now=lambda _: world.now_s,
    )
    # Gone from the queue before anybody looks, and without a file of its own.
    world.slurm.controller.at(
        world.now_s + 20.0, lambda: world.slurm.controller.cancel([_run_of(world, "a")])
    )

    world.run(world.are_over, 100)

    assert world.states() == [LedgerState.INTERRUPTED]
    assert world.slurm.num_calls("sbatch") == 1


def test_a_submission_that_slurm_never_got_is_made_again(tmp_path: Path) -> None:
    """Under the same number, after a sound controller has missed it twice, ten seconds apart."""
    world = World(tmp_path, faults=Faults(controller_down=((0.0, 40.0),)))
    world.register([world.plan("a")])

    world.run(world.are_over)

    calls = [call for call in world.slurm.calls if call.command in {"sbatch", "squeue"}]
    _, second = (call.at_s for call in calls if call.command == "sbatch")
    answered = [
        call.at_s
        for call in calls
        if call.command == "squeue" and world.slurm.start_s + 31 < call.at_s < second
    ]
    assert second - answered[0] >= 10.0
    assert len(answered) >= 2
    assert [one.submission for one in world.ledger.submissions(_entry(world, "a").run_dir)] == [1]


def test_nothing_is_submitted_while_slurm_does_not_answer(tmp_path: Path) -> None:
    """One unanswered sbatch is enough to wait; looks become rare."""
    world = World(tmp_path, config=SINGLE, faults=Faults(controller_down=((0.0, 1800.0),)))
    world.register([world.plan(f"r{number}") for number in range(20)])

    world.run(1700.0)
    calls = [world.slurm.num_calls(name) for name in ("sbatch", "squeue")]
    world.run(world.are_over)

    assert calls[0] == 1
    assert calls[1] <= 60
    assert world.states() == [LedgerState.FINISHED] * 20


def test_a_slurm_that_is_down_stands_in_the_ledger(tmp_path: Path) -> None:
    """With its words and since when; a successor inherits that, until Slurm answers one of them."""
    faults = Faults(failing=(("squeue", 60.0, 400.0),))
    world = World(tmp_path, work=lambda _: DAY, config=SINGLE, faults=faults)
    _submit(world, "a")
    before = world.ledger.trouble()
    world.run(lambda: world.now_s > world.slurm.start_s + 200)
    told = world.ledger.trouble()
    world.begin()
    world.register([world.plan("b")])
    world.run(100.0)
    still = world.ledger.trouble()
    submitted = world.slurm.num_calls("sbatch")
    world.run(lambda: _is(world, "b", LedgerState.RUNNING), 200)

    assert before is None
    assert told is not None
    assert still is not None
    assert "Munge encode failed" in told.words
    assert 60.0 <= told.since_s - world.slurm.start_s <= 91.0
    assert still.since_s == told.since_s
    assert still.asked_s > told.asked_s >= told.since_s + 90.0
    assert submitted == 1
    assert world.ledger.trouble() is None


def test_a_successor_without_jobs_finds_out_that_slurm_answers_again(tmp_path: Path) -> None:
    """It asks though it has nothing to follow: what stands in the ledger would stay there."""
    world = World(tmp_path)
    world.ledger.suffer("socket timed out", world.now_s)

    world.run(5.0)

    assert world.ledger.trouble() is None
    assert world.slurm.num_calls() == 1


def test_an_answer_that_is_cut_off_makes_no_job_absent(tmp_path: Path) -> None:
    """With every third listing cut off somewhere, all jobs are followed to their end."""
    world = World(tmp_path, faults=Faults(truncate=0.34))
    world.register([world.plan(f"r{number}") for number in range(30)])

    world.run(world.are_over)

    assert world.states() == [LedgerState.FINISHED] * 30
    assert world.slurm.num_calls("sbatch") == 1


# --- controllers that forget ---------------------------------------------------------------------


def test_a_forgotten_job_is_submitted_again_as_the_same_job(tmp_path: Path) -> None:
    """Its id belongs to a stranger by then, who is neither adopted nor cancelled."""
    faults = Faults(crash_at=(2.0,), stranger_takes_id=True)
    world = World(tmp_path, faults=faults)
    world.register([world.plan("a")])
    world.run(world.are_over)

    history = world.ledger.submissions(_entry(world, "a").run_dir)
    assert [(one.submission, one.slurm_job, one.failure) for one in history] == [
        (1, "1", "lost"),
        (2, "2", ""),
    ]
    (stranger,) = world.slurm.incarnations("other")
    assert stranger.slurm_job == "1"
    assert stranger.state is not SlurmState.CANCELLED
    assert world.node.overlaps == []


def test_a_stranger_with_the_id_of_a_forgotten_job_is_left_alone(tmp_path: Path) -> None:
    """It is not taken for our job while it runs, and not cancelled when ours is."""
    world = World(tmp_path, work=lambda _: DAY, faults=Faults(crash_at=(2.0,)))
    world.register([world.plan("a")])
    world.run(4.0)
    by_hand = _submit_by_hand(world)
    (stranger,) = world.slurm.incarnations(by_hand)
    known_as = _entry(world, "a").slurm_job

    world.ledger.wish_cancel([_entry(world, "a").run_dir], world.now_s)
    world.run(world.are_over, 120)

    assert stranger.slurm_job == known_as
    assert stranger.ended_s is None
    assert world.states() == [LedgerState.INTERRUPTED]


def test_an_accounting_that_lags_is_waited_for(tmp_path: Path) -> None:
    """A job that has left the queue is not lost because the accounting has not heard of its end."""
    world = World(
        tmp_path,
        work=lambda _: DAY,
        faults=Faults(sacct_lag_s=8.0),
        timing=Timing(min_job_age=0.5, start_delay=(40.0, 40.0)),
    )
    world.register([world.plan("a")])
    world.run(28.0)
    world.slurm.cancel_all()

    world.run(world.are_over, 60)

    assert _entry(world, "a").failure in {"cancelled", "admin"}  # by a user of the fake's
    assert world.slurm.num_calls("sbatch") == 1


def test_a_job_that_only_the_accounting_remembers_is_gone(tmp_path: Path) -> None:
    """The accounting says PENDING for ever of a job that the controller has forgotten."""
    world = World(tmp_path, faults=Faults(crash_at=(1.0,)), size=Size(num_nodes=1))
    world.slurm.submit_other("first")
    world.register([world.plan("a")])

    world.run(world.are_over, 600)

    assert world.states() == [LedgerState.FINISHED]


# --- cancelling ----------------------------------------------------------------------------------


def _submit_by_hand(world: World) -> str:
    """Let the user submit a job that is none of ours; return its name."""
    directory = world.path / "by-hand"
    directory.mkdir()
    (directory / "job.sh").write_text("#!/bin/bash\n#SBATCH --job-name=mine\n")
    with contextlib.suppress(TimeoutError):  # it is accepted all the same
        world.slurm.run(["sbatch", "--parsable", str(directory / "job.sh")], 30)
    return "mine"


@pytest.mark.parametrize("where", ["running", "queued", "planned", "doubt"])
def test_a_wish_is_carried_out_within_ten_seconds(tmp_path: Path, where: str) -> None:
    """Wherever the job is by then; jobs of others and of other studies go on."""
    faults = Faults(accept_then_timeout=1.0) if where == "doubt" else Faults()
    size = Size(num_nodes=1, cpus=1) if where == "queued" else Size()
    config = SINGLE.model_copy(update={"max_running": 1}) if where == "planned" else SINGLE
    world = World(tmp_path, work=lambda _: DAY, faults=faults, size=size, config=config)
    by_hand = _submit_by_hand(world)
    world.register([world.plan("kept"), world.plan("a")])
    world.run(5.0 if where == "doubt" else 20.0)
    run_dir = _entry(world, "a").run_dir
    if where == "doubt":
        world.run(lambda: _is(world, "a", LedgerState.SUBMITTING), 100)
    since_s = world.now_s

    world.ledger.wish_cancel([run_dir], world.now_s)
    world.run(lambda: _is(world, "a", LedgerState.INTERRUPTED), 60)

    assert world.now_s - since_s <= 10.0
    assert not _entry(world, "kept").state.job_state.is_final
    assert world.slurm.incarnations(by_hand)[0].ended_s is None
    assert all(run.ended_s for run in world.slurm.incarnations(_entry(world, "a").name))


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
    _submit(world, "a", "b")
    plans = [world.plan(name) for name in "ab"]
    first = _run_of(world, "a")

    world.ledger.wish_cancel([str(plan.run_dir) for plan in plans], world.now_s)
    world.run(5.0)
    assert _is(world, "a", LedgerState.RUNNING)  # KillWait is not over
    world.register(plans)
    if is_killed:
        world.begin()
    world.run(world.are_over, 400)

    assert world.states() == [LedgerState.FINISHED] * 2
    again = _run_of(world, "a")
    assert first.ended_s is not None
    assert again.started_s is not None
    assert again.started_s >= first.ended_s
    assert [one.submission for one in world.ledger.submissions(str(plans[0].run_dir))] == [1, 2]


def test_who_cancels_again_what_was_asked_for_again_means_it(tmp_path: Path) -> None:
    """The last wish counts; and what finishes all the same is not run once more."""
    works = iter([Work(86_400.0, saves_in_s=None), Work(25.0, saves_in_s=None)])
    world = World(tmp_path, work=lambda _: next(works), config=SINGLE)
    _submit(world, "a", "b")
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
    _submit(world, "a", "b", "c")

    world.ledger.wish_cancel([_entry(world, "b").run_dir], world.now_s)
    world.run(lambda: _is(world, "b", LedgerState.INTERRUPTED), 10)
    world.run(60.0)

    assert [e.state.value for e in world.entries()] == ["running", "interrupted", "running"]
    assert _result(world, "b") == ("interrupted", "", "")


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
    _submit(world, "a")
    world.run(lambda: world.now_s > world.slurm.start_s + 31)

    world.ledger.wish_cancel([_entry(world, "a").run_dir], world.now_s)
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
    _submit(world, "a")
    world.run(lambda: world.now_s >= world.slurm.start_s + 61)
    asked = world.slurm.num_calls("squeue")

    world.ledger.wish_cancel([_entry(world, "a").run_dir], world.now_s)
    world.run(1.0)
    num_first = world.slurm.num_calls("squeue") - asked
    world.run(lambda: world.now_s >= world.slurm.start_s + 180)
    num_calls = world.slurm.num_calls("squeue") - asked
    world.register([world.plan("b")])
    world.run(lambda: _is(world, "a", LedgerState.INTERRUPTED), 10)
    world.run(lambda: _is(world, "b", LedgerState.RUNNING), 60)

    assert num_first == 1  # it may be well again
    assert 8 <= num_calls <= 20


def test_a_long_trouble_leaves_a_debt_that_is_soon_paid(tmp_path: Path) -> None:
    """After half an hour with a wish: cancelled soon, the next one submitted in some minutes."""
    config = SlurmLauncherConfig(pack="single", call_burst=40, calls_per_minute=4)
    faults = Faults(failing=(("squeue", 60.0, 1800.0),))
    world = World(tmp_path, work=lambda _: DAY, config=config, faults=faults)
    _submit(world, "a")
    world.run(lambda: world.now_s >= world.slurm.start_s + 61)

    world.ledger.wish_cancel([_entry(world, "a").run_dir], world.now_s)
    world.run(lambda: world.now_s >= world.slurm.start_s + 1800, stride_s=1.0)
    world.register([world.plan("b")])
    num_calls = world.slurm.num_calls()
    world.run(lambda: _is(world, "a", LedgerState.INTERRUPTED), 60)
    world.run(lambda: _is(world, "b", LedgerState.RUNNING), 300)

    assert 40 + 4 * 1800 / 60 <= num_calls <= 40 + MOST_OWED + 4 * 1800 / 60


def test_an_scancel_that_fails_is_not_repeated_at_every_step(tmp_path: Path) -> None:
    """It is tried less and less often; a wish that is new is tried at once."""
    faults = Faults(failing=(("scancel", 0.0, 300.0),))
    world = World(tmp_path, work=lambda _: DAY, config=SINGLE, faults=faults)
    _submit(world, "a", "b")
    asked = world.slurm.num_calls("squeue")

    world.ledger.wish_cancel([_entry(world, "a").run_dir], world.now_s)
    world.run(120.0)
    num_calls = world.slurm.num_calls("scancel"), world.slurm.num_calls("squeue") - asked
    wished_s = world.now_s
    world.ledger.wish_cancel([_entry(world, "b").run_dir], world.now_s)
    world.run(2.0)
    num_new = world.slurm.num_calls("scancel", since_s=wished_s)
    world.run(lambda: world.now_s >= world.slurm.start_s + 300)
    world.run(world.are_over, 20)

    assert num_calls <= (20, 30)
    assert num_calls[0] >= 8
    assert num_new == 1


# --- ends that are not good ----------------------------------------------------------------------


def test_an_error_of_the_program_is_not_repeated(tmp_path: Path) -> None:
    """It failed by itself, and would again."""
    world = World(tmp_path, work=lambda _: Work(duration_s=5, exit_code=3))
    world.register([world.plan("a")])

    world.run(world.are_over)

    assert _entry(world, "a").failure == "application"
    assert world.slurm.num_calls("sbatch") == 1
    assert _result(world, "a")[:2] == ("failed", "data")  # the program's own word


def test_what_died_without_a_word_gets_a_result(tmp_path: Path) -> None:
    """Its class, and words that say what happened."""
    killed = Work(duration_s=5, signal=9, ends_as=SlurmState.OUT_OF_MEMORY)
    world = World(tmp_path, work=lambda _: killed)
    world.register([world.plan("a")])

    world.run(world.are_over)

    status, reason, message = _result(world, "a")
    assert (status, reason) == ("failed", "oom")
    assert "memory" in message.lower()


@pytest.mark.parametrize("config", [SINGLE, SlurmLauncherConfig()])
def test_a_script_that_fails_before_the_program_is_explained(
    tmp_path: Path, config: SlurmLauncherConfig
) -> None:
    """Its own last line says why, and no other node is tried."""
    world = World(tmp_path, work=lambda _: DAY, config=config)
    _submit(world, "a", "b")
    entry = _entry(world, "b")
    slurm_output(entry).write_text("job.sh, line 9, has failed: module load x\n\n")
    told = Told(SlurmState.FAILED, exit_code=1)

    verdict = judge(told, NOTHING)
    Conclusions(world.ledger, Clock(unix=lambda: 1.0)).conclude(entry, verdict, told, NOTHING)

    assert _is(world, "b", LedgerState.FAILED)
    status, reason, message = _result(world, "b")
    assert (status, reason) == ("failed", "application")
    assert 'Its output says: "job.sh, line 9, has failed: module load x".' in message


def test_sbatch_says_why_it_refuses(tmp_path: Path) -> None:
    """In its own words; the jobs of the batch have failed, all of them."""
    config = SINGLE.model_copy(update={"pack": "array", "partition": "nowhere"})
    world = World(tmp_path, config=config)
    plans = [
        world.plan(name).model_copy(update={"resources": SlurmResources(partition="nowhere")})
        for name in "ab"
    ]
    world.register(plans)

    world.run(world.are_over, 30)

    assert world.states() == [LedgerState.FAILED] * 2
    for name in "ab":
        status, reason, message = _result(world, name)
        assert (status, reason) == ("failed", "refused")
        assert "invalid partition" in message.lower()


def test_a_lost_node_is_avoided(tmp_path: Path) -> None:
    """The job, which may not be requeued, is submitted again without that node."""
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY)
    plan = world.plan("a").model_copy(update={"resources": SlurmResources(requeue=False)})
    world.register([plan])
    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 60)
    world.slurm.controller.fail_node("node01")

    world.run(lambda: _entry(world, "a").submission == 2, 300)
    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 60)

    assert _run_of(world, "a").nodes == ("node02",)
    assert _run_of(world, "a").request.exclude == {"node01"}
    assert world.ledger.submissions(_entry(world, "a").run_dir)[0].failure == "node"


@pytest.mark.parametrize("has_accounting", [True, False])
def test_a_node_that_is_lost_under_a_job_that_slurm_queues_again_is_avoided(
    tmp_path: Path, *, has_accounting: bool
) -> None:
    """The same submission goes on without that node, and the loss is told."""
    faults = Faults(no_accounting=not has_accounting)
    config = SINGLE.model_copy(update={"exclude": "node02"})
    world = World(
        tmp_path, size=Size(num_nodes=3), work=lambda _: DAY, faults=faults, config=config
    )
    plan = world.plan("a").model_copy(update={"resources": SlurmResources(exclude="node02")})
    world.register([plan])
    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 60)
    first = _run_of(world, "a")
    world.slurm.controller.fail_node("node01")
    _requeued(world, "a", first)
    world.slurm.controller.revive_node("node01")

    run = _started(world, "a")
    entry = _entry(world, "a")
    assert run.nodes == ("node03",)
    assert run.request.exclude == {"node01", "node02"}
    assert entry.submission == 1
    assert "node01 was lost" in entry.message
    assert "(retry 1 of 3); node01 is left out from now on" in entry.message


def test_nodes_are_left_out_only_where_enough_are_left(tmp_path: Path) -> None:
    """On a cluster of one node the job waits for it: without any it could never start."""
    world = World(tmp_path, size=Size(num_nodes=1), work=lambda _: DAY)
    _submit(world, "a")
    first = _run_of(world, "a")
    world.slurm.controller.fail_node("node01")
    _requeued(world, "a", first)
    world.run(60.0)
    world.slurm.controller.revive_node("node01")

    assert _started(world, "a").request.exclude == frozenset()


def test_a_job_that_only_the_lost_node_could_run_gets_it_back(tmp_path: Path) -> None:
    """Slurm would hold it for good; it is submitted again, with the node, and has lost nothing."""
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY, config=SINGLE)
    resources = SlurmResources(exclude="node[02-02]")  # more than one can count, as a feature is
    world.register([world.plan("a").model_copy(update={"resources": resources})])
    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 60)
    first = _run_of(world, "a")
    world.slurm.controller.fail_node("node01")
    _requeued(world, "a", first)
    world.slurm.controller.revive_node("node01")

    world.run(lambda: _entry(world, "a").submission == 2, 200)

    run = _started(world, "a")
    (before, _) = world.ledger.submissions(_entry(world, "a").run_dir)
    assert run.nodes == ("node01",)
    assert before.failure == "refused"
    assert "submitted again with node01, without which Slurm refused it" in before.words


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_job_that_loses_every_node_comes_to_an_end(tmp_path: Path, *, is_killed: bool) -> None:
    """Slurm would queue it again for ever; beyond ``max_retries`` it is cancelled, with words."""
    config = SINGLE.model_copy(update={"max_retries": 2})
    world = World(tmp_path, size=Size(num_nodes=5), work=lambda _: DAY, config=config)
    _submit(world, "a")

    for number in range(3):
        run = _started(world, "a")
        world.slurm.controller.fail_node(run.nodes[0])
        _requeued(world, "a", run)
        if is_killed:
            world.begin()
        world.run(world.are_over if number == 2 else 10.0, 300)

    entry = _entry(world, "a")
    status, reason, message = _result(world, "a")
    assert (entry.state, entry.failure, entry.submission) == (LedgerState.FAILED, "node", 1)
    assert (status, reason) == ("failed", "node")
    assert "lost node03" in message
    assert "launcher.max_retries is 2" in message
    losses = world.ledger.losses(entry.run_dir, entry.name)
    assert [loss.node for loss in losses] == ["node01", "node02", "node03"]
    assert "(retry 2 of 2)" in losses[1].words
    assert "it is cancelled" in losses[2].words


def test_checkpoints_begin_a_new_row_of_lost_nodes(tmp_path: Path) -> None:
    """A run of weeks may lose more nodes than ``max_retries``, as long as it moves on."""
    config = SINGLE.model_copy(update={"max_retries": 1})
    world = World(tmp_path, size=Size(num_nodes=5), work=lambda _: DAY, config=config)
    _submit(world, "a")
    checkpoints = RunDirectory(world.study_dir / "runs" / "a").checkpoints
    checkpoints.mkdir()

    for number in range(3):
        run = _started(world, "a")
        world.run(30.0)
        (checkpoints / f"{number}.pt").touch()
        os.utime(checkpoints / f"{number}.pt", (world.now_s, world.now_s))
        world.slurm.controller.fail_node(run.nodes[0])
        _requeued(world, "a", run)
    assert _started(world, "a").nodes == ("node04",)


@pytest.mark.parametrize("saves_in_s", [1.0, None])
def test_preemptions_are_not_counted(tmp_path: Path, saves_in_s: float | None) -> None:
    """However many, and also if the job is deaf and is killed: its nodes are not to blame."""
    config = SINGLE.model_copy(update={"max_retries": 0})
    world = World(tmp_path, work=lambda _: replace(DAY, saves_in_s=saves_in_s), config=config)
    _submit(world, "a")

    for _ in range(5):
        run = _started(world, "a")
        world.run(5.0)
        world.slurm.controller.preempt(run)
        _requeued(world, "a", run)
    assert _started(world, "a").request.exclude == frozenset()
    assert _entry(world, "a").restarts == 5
    assert world.slurm.num_calls("scancel") == 0


def test_a_job_that_lost_its_node_is_not_started_at_once(tmp_path: Path) -> None:
    """Slurm holds it for 121 s; that is taken back, but only after 15 s and a dead heart."""
    world = World(
        tmp_path,
        size=Size(num_nodes=2),
        work=lambda _: DAY,
        timing=Timing(dead_after=(28.0, 28.0)),  # with 15 s more, its heart may still beat
    )
    _submit(world, "a")
    world.slurm.controller.fail_node("node01")
    failed_s = world.now_s

    world.run(lambda: len(world.slurm.incarnations(_entry(world, "a").name)) == 2, 100)
    requeued_s = world.now_s
    world.run(lambda: _run_of(world, "a").started_s is not None, 300)

    started_s = _run_of(world, "a").started_s or 0.0
    assert started_s - requeued_s >= 15.0
    assert started_s - failed_s >= 60.0  # until then its heart might still beat
    assert started_s - requeued_s < 121.0
    assert _entry(world, "a").submission == 1


def test_the_past_of_a_lost_node_gets_time_to_pass(tmp_path: Path) -> None:
    """However long its heart has been still: 15 s after Slurm has queued it again, not before."""
    world = World(
        tmp_path,
        size=Size(num_nodes=2),
        work=lambda _: DAY,
        timing=Timing(dead_after=(86.0, 86.0)),  # just before a regular look
    )
    _submit(world, "a")
    world.slurm.controller.fail_node("node01")

    world.run(lambda: len(world.slurm.incarnations(_entry(world, "a").name)) == 2, 200)
    requeued_s = world.now_s
    world.run(lambda: _run_of(world, "a").started_s is not None, 300)

    assert 15.0 <= (_run_of(world, "a").started_s or 0.0) - requeued_s <= 15.0 + 30.0 + 2.0


def test_a_preempted_job_goes_on_as_soon_as_it_can(tmp_path: Path) -> None:
    """It has saved and said so; its hold is taken back after 3 s, for slurmd's sake."""
    world = World(tmp_path, work=lambda _: DAY)
    _submit(world, "a")
    world.slurm.controller.stop(_run_of(world, "a"), SlurmState.PREEMPTED)

    world.run(lambda: len(world.slurm.incarnations(_entry(world, "a").name)) == 2, 60)
    requeued_s = world.now_s
    world.run(lambda: _run_of(world, "a").started_s is not None, 300)

    assert 3.0 <= (_run_of(world, "a").started_s or 0.0) - requeued_s <= 8.0
    assert world.slurm.num_calls("scontrol") == 1
    world.run(lambda: _is(world, "a", LedgerState.RUNNING), 60)


def test_retries_come_to_an_end(tmp_path: Path) -> None:
    """As often as max_retries says, each one later than the one before."""
    config = SlurmLauncherConfig(max_retries=2, calls_per_minute=600, call_burst=1000)
    world = World(tmp_path, work=lambda _: Work(duration_s=5, signal=15), config=config)
    world.register([world.plan("a")])

    world.run(world.are_over, 10_000)

    history = world.ledger.submissions(_entry(world, "a").run_dir)
    assert [one.submission for one in history] == [1, 2, 3]
    assert world.states() == [LedgerState.FAILED]
    assert "max_retries is 2" in _result(world, "a")[2]


def test_works_without_accounting(tmp_path: Path) -> None:
    """Also for jobs that the controller has purged; costs are told by the files."""
    world = World(
        tmp_path, faults=Faults(no_accounting=True), timing=Timing(min_job_age=2.0), config=SINGLE
    )
    world.register([world.plan(f"r{number}") for number in range(5)])
    world.run(20.0)
    world.die()
    world.slurm.advance(300.0)

    world.run(world.are_over, 60)
    world.run(10.0)

    assert world.states() == [LedgerState.FINISHED] * 5
    assert world.slurm.num_calls("sacct") == 1
    assert (Path(world.entries()[0].run_dir) / "costs.json").exists()


def test_an_unknown_state_is_never_final(tmp_path: Path) -> None:
    """An hour without accounting daemon, and a job that has left the queue: it is waited for."""
    faults = Faults(accounting_down=((0.0, 3600.0),))
    world = World(tmp_path, faults=faults, timing=Timing(min_job_age=2.0))
    _submit(world, "a")
    world.die()
    world.slurm.advance(300.0)

    world.run(3000.0, stride_s=1.0)
    states = world.states()
    world.run(world.are_over, 700)

    assert states == [LedgerState.RUNNING]
    assert world.states() == [LedgerState.FINISHED]


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
    _submit(world, "running")
    column = {"jobs": "plan", "studies": "launcher"}[table]
    world.register([world.plan("planned")])
    with world.ledger.file.transaction() as connection:
        connection.execute(f"UPDATE {table} SET {column} = '{{\"later\": 1}}'")  # noqa: S608
    other = world.plan("other")
    world.ledger.register(tmp_path, SINGLE, [other], world.now_s)

    world.run(world.are_over, 300)

    assert _is(world, "other", LedgerState.FINISHED)
    assert _is(world, "running", LedgerState.FINISHED)
    assert _is(world, "planned", LedgerState.FAILED)
    assert "another version of Watershed has planned it" in _result(world, "planned")[2]


def test_a_run_whose_directory_was_removed_fails(tmp_path: Path) -> None:
    """It would never be submitted, and be waited for; the others of its array go on."""
    world = World(tmp_path)
    world.register([world.plan("a"), world.plan("b"), world.plan("c")])
    shutil.rmtree(world.study_dir / "runs" / "b")

    world.run(world.are_over, 300)

    assert world.states() == [LedgerState.FINISHED, LedgerState.FAILED, LedgerState.FINISHED]
    assert "was removed" in _entry(world, "b").message


def test_a_server_leaves_the_limit_to_its_workers(tmp_path: Path) -> None:
    """Both must run at the same time, or neither comes to an end."""
    config = SINGLE.model_copy(update={"pack": "array", "max_running": 2})
    world = World(tmp_path, work=lambda _: DAY)
    server = world.plan("server").model_copy(update={"module": SERVER_MODULE})
    world.register([server], config)
    world.run(lambda: _is(world, "server", LedgerState.RUNNING), 60)

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
    _submit(first, "a")
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
    _submit(first, "a")
    first.die()
    for path in (tmp_path / "state").glob("ledger.sqlite*"):
        path.unlink()
    second = first.reopened()
    second.register([second.plan("a")])
    second.run(1.0)

    second.ledger.wish_cancel([_entry(second, "a").run_dir], second.now_s)
    second.run(second.are_over, 15)

    assert second.states() == [LedgerState.INTERRUPTED]
    assert second.slurm.num_calls("sbatch") == 1


def test_a_leader_whose_first_read_failed_watches_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails once, while it takes over, hides no run directory from it."""
    world = World(tmp_path, work=lambda _: Work(duration_s=20))
    _submit(world, "a")
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

    assert _entry(world, "a").submission == 4
    assert world.states() == [LedgerState.FINISHED]


# --- duplicates ----------------------------------------------------------------------------------


def _twin(world: World, name: str) -> None:
    """Let Slurm accept the script of a job once more, as an sbatch may that came late."""
    world.slurm.run(["sbatch", "--parsable", str(world.study_dir / "runs" / name / "job.sh")], 30)


def test_of_two_jobs_of_a_name_the_one_that_has_begun_is_kept(tmp_path: Path) -> None:
    """The other one is cancelled before it costs anything, or refused by the node."""
    world = World(tmp_path, work=lambda _: DAY, size=Size(num_nodes=1, cpus=1))
    _submit(world, "a")

    _twin(world, "a")
    world.run(60.0)

    runs = world.slurm.incarnations(_entry(world, "a").name)
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
    ours = _run_of(world, "a")
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
    world.run(lambda: _is(world, "a", LedgerState.FINISHED), 200)

    _twin(world, "a")
    world.run(60.0)

    assert world.slurm.incarnations(_entry(world, "a").name)[-1].ended_s is not None
    assert world.node.begun.total() == 2
    assert replace(_entry(world, "b"), state=LedgerState.RUNNING) == _entry(world, "b")


def test_a_job_that_comes_back_from_the_dead_is_cancelled(tmp_path: Path) -> None:
    """A controller that was killed may take up a job again that is over: under the id it had."""
    world = World(tmp_path)
    world.register([world.plan("a")])
    world.run(world.are_over)
    clock = Clock(world.slurm.clock.now, world.slurm.clock.now)
    calls = Calls(SlurmCli(world.slurm.run), world.ledger, clock)
    doubts = Doubts(Desk(world.ledger, calls, Watch(), Agenda(), clock))
    name = _entry(world, "a").name
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
    _submit(world, "b")

    _twin(world, "a")
    world.run(90.0)

    assert world.slurm.incarnations(_entry(world, "a").name)[-1].state is SlurmState.PENDING
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
