"""Ends that are not good: what is told of them, what is tried again, where, and how often."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.calls import Clock
from tasks.slurm.concluding import Conclusions
from tasks.slurm.entries import LedgerState
from tasks.slurm.evidence import NOTHING
from tasks.slurm.judgement import Told, judge
from tasks.slurm.results import slurm_output
from tasks.slurm.states import SlurmState
from tests.fakes.controller import Timing
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.scripts import Size
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import (
    DAY,
    SINGLE,
    World,
)


def test_an_error_of_the_program_is_not_repeated(tmp_path: Path) -> None:
    """It failed by itself, and would again."""
    world = World(tmp_path, work=lambda _: Work(duration_s=5, exit_code=3))
    world.register([world.plan("a")])

    world.run(world.are_over)

    assert world.entry("a").failure == "application"
    assert world.slurm.num_calls("sbatch") == 1
    assert world.result("a")[:2] == ("failed", "data")  # the program's own word


def test_what_died_without_a_word_gets_a_result(tmp_path: Path) -> None:
    """Its class, and words that say what happened."""
    killed = Work(duration_s=5, signal=9, ends_as=SlurmState.OUT_OF_MEMORY)
    world = World(tmp_path, work=lambda _: killed)
    world.register([world.plan("a")])

    world.run(world.are_over)

    status, reason, message = world.result("a")
    assert (status, reason) == ("failed", "oom")
    assert "memory" in message.lower()


@pytest.mark.parametrize("config", [SINGLE, SlurmLauncherConfig()])
def test_a_script_that_fails_before_the_program_is_explained(
    tmp_path: Path, config: SlurmLauncherConfig
) -> None:
    """Its own last line says why, and no other node is tried."""
    world = World(tmp_path, work=lambda _: DAY, config=config)
    world.submit("a", "b")
    entry = world.entry("b")
    slurm_output(entry).write_text("job.sh, line 9, has failed: module load x\n\n")
    told = Told(SlurmState.FAILED, exit_code=1)

    verdict = judge(told, NOTHING)
    Conclusions(world.ledger, Clock(unix=lambda: 1.0)).conclude(entry, verdict, told, NOTHING)

    assert world.is_in("b", LedgerState.FAILED)
    status, reason, message = world.result("b")
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
        status, reason, message = world.result(name)
        assert (status, reason) == ("failed", "refused")
        assert "invalid partition" in message.lower()


def test_a_lost_node_is_avoided(tmp_path: Path) -> None:
    """The job, which may not be requeued, is submitted again without that node."""
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY)
    plan = world.plan("a").model_copy(update={"resources": SlurmResources(requeue=False)})
    world.register([plan])
    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 60)
    world.slurm.controller.fail_node("node01")

    world.run(lambda: world.entry("a").submission == 2, 300)
    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 60)

    assert world.run_of("a").nodes == ("node02",)
    assert world.run_of("a").request.exclude == {"node01"}
    assert world.ledger.submissions(world.entry("a").run_dir)[0].failure == "node"


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
    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 60)
    first = world.run_of("a")
    world.slurm.controller.fail_node("node01")
    world.requeued("a", first)
    world.slurm.controller.revive_node("node01")

    run = world.started("a")
    entry = world.entry("a")
    assert run.nodes == ("node03",)
    assert run.request.exclude == {"node01", "node02"}
    assert entry.submission == 1
    assert "node01 was lost" in entry.message
    assert "(retry 1 of 3); node01 is left out from now on" in entry.message


def test_nodes_are_left_out_only_where_enough_are_left(tmp_path: Path) -> None:
    """On a cluster of one node the job waits for it: without any it could never start."""
    world = World(tmp_path, size=Size(num_nodes=1), work=lambda _: DAY)
    world.submit("a")
    first = world.run_of("a")
    world.slurm.controller.fail_node("node01")
    world.requeued("a", first)
    world.run(60.0)
    world.slurm.controller.revive_node("node01")

    assert world.started("a").request.exclude == frozenset()
    told = "; node01 is not left out: too few nodes would be left in batch"
    assert world.entry("a").message.endswith(told)


def _back_in_use(world: World, *, is_killed: bool = False) -> Incarnation:
    """Let a job lose node01, which comes back at once; return its next life."""
    world.submit("a")
    first = world.run_of("a")
    world.slurm.controller.fail_node("node01")
    world.requeued("a", first)
    world.slurm.controller.revive_node("node01")
    if is_killed:
        world.run(lambda: "was lost" in world.entry("a").message, 60)
        world.begin()
    return world.started("a")


def _refuse_updates(world: World, said: str) -> list[Sequence[str]]:
    """Let ``scontrol update`` fail from now on; return its calls."""
    answer = world.slurm.run
    refused = []

    def run(argv: Sequence[str], timeout_s: float) -> "CompletedProcess[str]":
        if argv[:2] != ["scontrol", "update"]:
            return answer(argv, timeout_s)
        refused.append(argv)
        return CompletedProcess(list(argv), 1, "", said)

    world.slurm.run = run  # type: ignore[method-assign]  # Slurm's own answer
    return refused


@pytest.mark.parametrize("command", ["scontrol", "sinfo"])
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_node_is_left_out_though_slurm_does_not_do_it_at_once(
    tmp_path: Path, command: str, *, is_killed: bool
) -> None:
    """It is tried again while Slurm holds the job, and told once it is done."""
    faults = Faults(failing=((command, 0.0, 110.0),))
    size = Size(num_nodes=2)
    world = World(tmp_path, size=size, work=lambda _: DAY, faults=faults, config=SINGLE)

    run = _back_in_use(world, is_killed=is_killed)

    entry = world.entry("a")
    (loss,) = world.ledger.losses(entry.run_dir, entry.name)
    assert run.nodes == ("node02",)
    assert run.request.exclude == {"node01"}
    assert entry.message == (
        "node01 was lost, and Slurm has queued the job again (retry 1 of 3); "
        "node01 is left out from now on"
    )
    assert loss.words == entry.message


@pytest.mark.parametrize("pack", ["single", "allocation"])
def test_a_node_is_left_out_however_small_the_bucket_is(tmp_path: Path, pack: str) -> None:
    """The smallest that the configuration allows is enough for the three calls."""
    config = SlurmLauncherConfig.model_validate({"pack": pack, "call_burst": 4})
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY, config=config)

    run = _back_in_use(world)

    assert run.nodes == ("node02",)
    assert run.request.exclude == {"node01"}
    assert world.entry("a").message.endswith("; node01 is left out from now on")


def test_all_runs_of_a_job_are_told_what_became_of_its_node(tmp_path: Path) -> None:
    """They share a job of Slurm, which is asked once."""
    config = SINGLE.model_copy(update={"pack": "allocation"})
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY, config=config)
    world.register([world.plan("b")])

    run = _back_in_use(world)

    assert run.nodes == ("node02",)
    assert world.entry("a").slurm_job == world.entry("b").slurm_job
    for name in "ab":
        assert world.entry(name).message.endswith("; node01 is left out from now on")
    assert sum("update" in call.argv for call in world.slurm.calls) == 1


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("scontrol", "; it may get node01 again: Munge encode failed"),
        ("sinfo", "; it may get node01 again: the nodes of batch are not known"),
    ],
)
def test_a_node_that_cannot_be_left_out_is_not_told_to_be(
    tmp_path: Path, command: str, told: str
) -> None:
    """The job is not held for longer than Slurm holds it, and is asked for within measure."""
    faults = Faults(failing=((command, 0.0, 10_000.0),))
    size = Size(num_nodes=2)
    world = World(tmp_path, size=size, work=lambda _: DAY, faults=faults, config=SINGLE)

    run = _back_in_use(world)

    assert run.nodes == ("node01",)
    assert (run.started_s or 0.0) - run.submitted_s < 125.0
    assert told in world.entry("a").message
    assert 2 <= world.slurm.num_calls(command) <= 25


def test_what_slurm_refuses_for_good_is_not_tried_again(tmp_path: Path) -> None:
    """The job starts when Slurm lets it go, and its words say that it may get the node again."""
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY, config=SINGLE)
    refused = _refuse_updates(world, "Access/permission denied")

    run = _back_in_use(world)

    assert run.nodes == ("node01",)
    assert len(refused) == 1
    assert world.entry("a").message.endswith("node01 is not left out: Access/permission denied")


def test_a_job_that_was_preempted_stays_away_from_the_node_that_it_lost(tmp_path: Path) -> None:
    """Also if it is released when Slurm does not answer: what was told of the node stays true."""
    size = Size(num_nodes=3)
    world = World(tmp_path, size=size, work=lambda _: DAY, config=SINGLE)
    run = _back_in_use(world)
    told = world.entry("a").message
    refused = _refuse_updates(world, "Unable to contact slurm controller (connect failure)")
    world.slurm.controller.preempt(run)
    world.requeued("a", run)

    run = world.started("a")

    assert run.request.exclude == {"node01"}
    assert world.entry("a").message == told
    assert len(refused) > 1


def test_a_job_that_only_the_lost_node_could_run_gets_it_back(tmp_path: Path) -> None:
    """Slurm would hold it for good; it is submitted again, with the node, and has lost nothing."""
    world = World(tmp_path, size=Size(num_nodes=2), work=lambda _: DAY, config=SINGLE)
    resources = SlurmResources(exclude="node[02-02]")  # more than one can count, as a feature is
    world.register([world.plan("a").model_copy(update={"resources": resources})])
    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 60)
    first = world.run_of("a")
    world.slurm.controller.fail_node("node01")
    world.requeued("a", first)
    world.slurm.controller.revive_node("node01")

    world.run(lambda: world.entry("a").submission == 2, 200)

    run = world.started("a")
    (before, _) = world.ledger.submissions(world.entry("a").run_dir)
    assert run.nodes == ("node01",)
    assert before.failure == "refused"
    assert "submitted again with node01, without which Slurm refused it" in before.words


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_job_that_loses_every_node_comes_to_an_end(tmp_path: Path, *, is_killed: bool) -> None:
    """Slurm would queue it again for ever; beyond ``max_retries`` it is cancelled, with words."""
    config = SINGLE.model_copy(update={"max_retries": 2})
    world = World(tmp_path, size=Size(num_nodes=5), work=lambda _: DAY, config=config)
    world.submit("a")

    for number in range(3):
        run = world.started("a")
        world.slurm.controller.fail_node(run.nodes[0])
        world.requeued("a", run)
        if is_killed:
            world.begin()
        world.run(world.are_over if number == 2 else 10.0, 300)

    entry = world.entry("a")
    status, reason, message = world.result("a")
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
    world.submit("a")
    checkpoints = RunDirectory(world.study_dir / "runs" / "a").checkpoints
    checkpoints.mkdir()

    for number in range(3):
        run = world.started("a")
        world.run(30.0)
        (checkpoints / f"{number}.pt").touch()
        os.utime(checkpoints / f"{number}.pt", (world.now_s, world.now_s))
        world.slurm.controller.fail_node(run.nodes[0])
        world.requeued("a", run)
    assert world.started("a").nodes == ("node04",)


@pytest.mark.parametrize("saves_in_s", [1.0, None])
def test_preemptions_are_not_counted(tmp_path: Path, saves_in_s: float | None) -> None:
    """However many, and also if the job is deaf and is killed: its nodes are not to blame."""
    config = SINGLE.model_copy(update={"max_retries": 0})
    world = World(tmp_path, work=lambda _: replace(DAY, saves_in_s=saves_in_s), config=config)
    world.submit("a")

    for _ in range(5):
        run = world.started("a")
        world.run(5.0)
        world.slurm.controller.preempt(run)
        world.requeued("a", run)
    assert world.started("a").request.exclude == frozenset()
    assert world.entry("a").restarts == 5
    assert world.slurm.num_calls("scancel") == 0


def test_a_job_that_lost_its_node_is_not_started_at_once(tmp_path: Path) -> None:
    """Slurm holds it for 121 s; that is taken back, but only after 15 s and a dead heart."""
    world = World(
        tmp_path,
        size=Size(num_nodes=2),
        work=lambda _: DAY,
        timing=Timing(dead_after=(28.0, 28.0)),  # with 15 s more, its heart may still beat
    )
    world.submit("a")
    world.slurm.controller.fail_node("node01")
    failed_s = world.now_s

    world.run(lambda: len(world.slurm.incarnations(world.entry("a").name)) == 2, 100)
    requeued_s = world.now_s
    world.run(lambda: world.run_of("a").started_s is not None, 300)

    started_s = world.run_of("a").started_s or 0.0
    assert started_s - requeued_s >= 15.0
    assert started_s - failed_s >= 60.0  # until then its heart might still beat
    assert started_s - requeued_s < 121.0
    assert world.entry("a").submission == 1


def test_the_past_of_a_lost_node_gets_time_to_pass(tmp_path: Path) -> None:
    """However long its heart has been still: 15 s after Slurm has queued it again, not before."""
    world = World(
        tmp_path,
        size=Size(num_nodes=2),
        work=lambda _: DAY,
        timing=Timing(dead_after=(86.0, 86.0)),  # just before a regular look
    )
    world.submit("a")
    world.slurm.controller.fail_node("node01")

    world.run(lambda: len(world.slurm.incarnations(world.entry("a").name)) == 2, 200)
    requeued_s = world.now_s
    world.run(lambda: world.run_of("a").started_s is not None, 300)

    assert 15.0 <= (world.run_of("a").started_s or 0.0) - requeued_s <= 15.0 + 30.0 + 2.0


def test_a_preempted_job_goes_on_as_soon_as_it_can(tmp_path: Path) -> None:
    """It has saved and said so; its hold is taken back after 3 s, for slurmd's sake."""
    world = World(tmp_path, work=lambda _: DAY)
    world.submit("a")
    world.slurm.controller.stop(world.run_of("a"), SlurmState.PREEMPTED)

    world.run(lambda: len(world.slurm.incarnations(world.entry("a").name)) == 2, 60)
    requeued_s = world.now_s
    world.run(lambda: world.run_of("a").started_s is not None, 300)

    assert 3.0 <= (world.run_of("a").started_s or 0.0) - requeued_s <= 8.0
    assert world.slurm.num_calls("scontrol") == 1
    world.run(lambda: world.is_in("a", LedgerState.RUNNING), 60)


def test_retries_come_to_an_end(tmp_path: Path) -> None:
    """As often as max_retries says, each one later than the one before."""
    config = SlurmLauncherConfig(max_retries=2, calls_per_minute=600, call_burst=1000)
    world = World(tmp_path, work=lambda _: Work(duration_s=5, signal=15), config=config)
    world.register([world.plan("a")])

    world.run(world.are_over, 10_000)

    history = world.ledger.submissions(world.entry("a").run_dir)
    assert [one.submission for one in history] == [1, 2, 3]
    assert world.states() == [LedgerState.FAILED]
    assert "max_retries is 2" in world.result("a")[2]


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
    world.submit("a")
    world.die()
    world.slurm.advance(300.0)

    world.run(3000.0, stride_s=1.0)
    states = world.states()
    world.run(world.are_over, 700)

    assert states == [LedgerState.RUNNING]
    assert world.states() == [LedgerState.FINISHED]
