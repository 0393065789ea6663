"""Submissions that were not answered, and controllers that forget jobs: none lost, none twice."""

from pathlib import Path

from tasks.slurm.calls import Clock
from tasks.slurm.commands import SlurmCli
from tasks.slurm.entries import LedgerState
from tasks.slurm.leader import Leadership
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.reconciler import Reconciler
from tasks.slurm.states import SlurmState
from tests.fakes.controller import Timing
from tests.fakes.scripts import Size
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import (
    DAY,
    SINGLE,
    World,
)

# --- submissions in doubt ------------------------------------------------------------------------


def test_a_submission_that_was_not_answered_is_found_by_its_name(tmp_path: Path) -> None:
    """It is adopted at the next look, and not submitted again."""
    world = World(tmp_path, faults=Faults(accept_then_timeout=1.0))
    world.register([world.plan("a")])

    world.run(lambda: world.is_in("a", LedgerState.SUBMITTED, LedgerState.RUNNING), 35)
    world.run(world.are_over)

    assert world.slurm.num_calls("sbatch") == 1
    assert world.states() == [LedgerState.FINISHED]


def test_an_array_in_doubt_is_adopted_as_a_whole(tmp_path: Path) -> None:
    """Each of its tasks gets its id."""
    world = World(tmp_path, faults=Faults(accept_then_timeout=1.0), work=lambda _: DAY)

    world.submit("a", "b", "c")

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
        world.now_s + 20.0, lambda: world.slurm.controller.cancel([world.run_of("a")])
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
    assert [one.submission for one in world.ledger.submissions(world.entry("a").run_dir)] == [1]


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
    world.submit("a")
    before = world.ledger.trouble()
    world.run(lambda: world.now_s > world.slurm.start_s + 200)
    told = world.ledger.trouble()
    world.begin()
    world.register([world.plan("b")])
    world.run(100.0)
    still = world.ledger.trouble()
    submitted = world.slurm.num_calls("sbatch")
    world.run(lambda: world.is_in("b", LedgerState.RUNNING), 200)

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

    history = world.ledger.submissions(world.entry("a").run_dir)
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
    by_hand = world.submit_anothers()
    (stranger,) = world.slurm.incarnations(by_hand)
    known_as = world.entry("a").slurm_job

    world.ledger.wish_cancel([world.entry("a").run_dir], world.now_s)
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

    assert world.entry("a").failure in {"cancelled", "admin"}  # by a user of the fake's
    assert world.slurm.num_calls("sbatch") == 1


def test_a_job_that_only_the_accounting_remembers_is_gone(tmp_path: Path) -> None:
    """The accounting says PENDING for ever of a job that the controller has forgotten."""
    world = World(tmp_path, faults=Faults(crash_at=(1.0,)), size=Size(num_nodes=1))
    world.slurm.submit_other("first")
    world.register([world.plan("a")])

    world.run(world.are_over, 600)

    assert world.states() == [LedgerState.FINISHED]
