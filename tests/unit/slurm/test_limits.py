"""What Slurm does not take, now or ever, holds back the jobs that it concerns, and no others."""

from collections import Counter
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.slurm.entries import LedgerState
from tasks.slurm.plan import JobPlan
from tests.fakes.jobs import Work
from tests.fakes.scripts import Size, write_script
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import World

PLENTY = {"calls_per_minute": 600, "call_burst": 1000}
DRAIN_S = (300.0, 900.0)


def _plans(world: World, study: str, count: int, resources: SlurmResources) -> list[JobPlan]:
    plans = []
    for number in range(count):
        run_dir = world.path / study / "points" / str(number)
        run_dir.mkdir(parents=True)
        (run_dir / "job.json").touch()
        plans.append(
            JobPlan(
                name=f"{study} {number}",
                module="toy.job",
                run_dir=run_dir,
                resources=resources,
                python="/usr/bin/python3",
            )
        )
    return plans


def _register(world: World, study: str, count: int, **fields: object) -> Path:
    """Plan a study of its own; its directory is returned."""
    config = SlurmLauncherConfig.model_validate(PLENTY | fields)
    plans = _plans(world, study, count, config.resources())
    world.ledger.register(world.path / study, config, plans, world.now_s)
    return world.path / study


def _states(world: World, study_dir: Path) -> Counter[str]:
    return Counter(state.value for state in world.ledger.states(study_dir).values())


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", ["single", "array"])
@pytest.mark.parametrize("is_terse", [False, True])
def test_a_size_that_a_qos_never_allows_is_refused(
    tmp_path: Path, pack: str, *, is_terse: bool
) -> None:
    """At once if Slurm names the limit, else after some tries; a sound study goes on beside it."""
    faults = Faults(min_gpus=(("gpu", 1),), is_terse=is_terse)
    world = World(tmp_path, faults=faults, work=lambda _: Work(duration_s=30.0))
    bad = _register(world, "bad", 8, pack=pack, qos="gpu")
    good = _register(world, "good", 3, pack=pack)
    world.run(60.0)
    late = _register(world, "late", 40, pack=pack)

    world.run(300.0)
    sound = _states(world, good) + _states(world, late)
    world.run(world.are_over, 1800)

    assert sound == {"finished": 43}
    assert _states(world, bad) == {"failed": 8}
    (entry, *_) = world.ledger.entries(bad)
    assert entry.failure == "refused"
    assert "violates accounting/QOS policy" in entry.message
    tries = [call for call in world.slurm.calls if "/bad/" in call.argv[-1]]
    assert len(tries) <= 16  # one for each, or some in vain and then one for each


def test_a_limit_on_jobs_that_slurm_does_not_name_is_worked_around(tmp_path: Path) -> None:
    """As long as any of ours is in the queue, the sentence may be about their number."""
    faults = Faults(max_submit=6, is_terse=True)
    world = World(tmp_path, faults=faults, work=lambda _: Work(duration_s=900.0))
    study = _register(world, "many", 15)

    world.run(world.are_over, 20_000, stride_s=1.0)

    assert _states(world, study) == {"finished": 15}
    assert sorted(world.node.begun.values()) == [1] * 15


def test_a_limit_of_one_qos_does_not_hold_back_another(tmp_path: Path) -> None:
    """What is learned of one partition, account and QoS is of these alone."""
    world = World(tmp_path, work=lambda _: Work(duration_s=5000.0), faults=Faults(max_submit=4))
    full = _register(world, "full", 10, qos="small")
    world.run(60.0)
    assert _states(world, full)["running"] == 4
    world.slurm._faults = Faults()  # the other QoS has no limit

    free = _register(world, "free", 10, qos="large")
    world.run(20.0)

    assert _states(world, free) == {"running": 10}


# --- partitions that are closed ------------------------------------------------------------------


@pytest.mark.parametrize("pack", ["single", "array"])
def test_a_drained_partition_is_waited_for(tmp_path: Path, pack: str) -> None:
    """As before a maintenance: what runs goes on, the rest waits and says why, none fails."""
    faults = Faults(drained=(("batch", *DRAIN_S),))
    world = World(tmp_path, faults=faults, work=lambda _: Work(duration_s=120.0))
    study = _register(world, "study", 40, pack=pack, partition="batch", max_running=4)
    world.run(DRAIN_S[0] - 10)
    late = _register(world, "late", 3, pack=pack, partition="batch")
    other = _register(world, "other", 3, pack=pack, partition="debug")
    world.run(20.0)
    after = _register(world, "after", 2, pack=pack, partition="batch")
    since_s = world.now_s

    world.run(500.0)
    waiting = [e for e in world.ledger.entries(after) if e.state is LedgerState.PLANNED]
    tries = world.slurm.num_calls("sbatch", since_s=since_s)
    world.run(world.are_over, 5000, stride_s=1.0)

    assert len(waiting) == 2
    assert "partition batch takes no jobs now" in waiting[0].message
    assert "inactive or drain" in waiting[1].message
    assert tries <= 8  # of both studies, as they wait for the same
    assert _states(world, other) == {"finished": 3}
    assert {e.state for e in world.entries()} == {LedgerState.FINISHED}
    assert len(world.ledger.states(study)) + len(world.ledger.states(late)) == 43


# --- hidden partitions ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_busy", [False, True])
def test_jobs_of_a_hidden_partition_are_followed(tmp_path: Path, *, is_busy: bool) -> None:
    """They are not lost, run once, and can be cancelled: slurmctld hides them from their user."""
    size = Size(num_nodes=1, cpus=1, hidden=("debug",))
    world = World(tmp_path, size=size, work=lambda _: Work(duration_s=1200.0))
    if is_busy:  # so that it has to wait, and leaves no sign of life
        script = write_script(tmp_path, "other")
        world.slurm.run(["sbatch", "--parsable", f"--chdir={script.parent}", str(script)], 30)
        world.run(5.0)
    study = _register(world, "study", 1, partition="debug")

    world.run(400.0)
    submissions = len(world.ledger.submissions(world.ledger.entries(study)[0].run_dir))
    world.run(world.are_over, 8000, stride_s=1.0)

    assert submissions == 1
    assert _states(world, study) == {"finished": 1}
    assert world.node.begun[study / "points" / "0"] == 1


def test_a_job_of_a_hidden_partition_can_be_cancelled(tmp_path: Path) -> None:
    """Nothing is cancelled that no listing shows, so the listing must show it."""
    size = Size(hidden=("debug",))
    world = World(tmp_path, size=size, work=lambda _: Work(duration_s=86_400.0))
    study = _register(world, "study", 1, partition="debug")
    world.run(60.0)

    world.ledger.wish_cancel(list(world.ledger.states(study)), world.now_s)
    world.run(world.are_over, 20)

    assert _states(world, study) == {"interrupted": 1}
    assert world.slurm.num_calls("scancel") == 1
