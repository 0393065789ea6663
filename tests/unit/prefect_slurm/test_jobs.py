"""One job for each time that Prefect asks for a flow run, whatever dies in between."""

import json
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from configs.launchers import SlurmResources
from tasks.prefect_slurm.records import read_flow_run_job
from tasks.runtime.attempt import Claimant, claim, write_exit
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.entries import LedgerState
from tests.unit.prefect_slurm.world import JobWorld, wait_until


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    """Jobs that nobody leads."""
    return JobWorld(tmp_path)


def test_asking_again_is_asking_for_the_same_job(world: JobWorld) -> None:
    """In whatever state it is, and by whichever worker."""
    flow_run_id = uuid4()
    run_dir = world.submit(flow_run_id)
    another = world.restarted()
    another.close()

    for state in (LedgerState.PLANNED, LedgerState.SUBMITTED, LedgerState.RUNNING):
        world.stand(run_dir, state)
        assert world.submit(flow_run_id, another) == run_dir

    assert run_dir.name == "1"
    assert len(world.ledger.entries()) == 1


@pytest.mark.parametrize("end", [one for one in LedgerState if one.job_state.is_final])
def test_a_retry_has_a_directory_of_its_own(world: JobWorld, end: LedgerState) -> None:
    """Else a job that had ended well would count as the retry's, and never run again."""
    flow_run_id = uuid4()
    first = world.submit(flow_run_id)
    world.stand(first, end)

    second = world.submit(flow_run_id)

    assert (first.name, second.name) == ("1", "2")
    tracked = {Path(one.entry.run_dir).name: one for one in world.jobs.tracked()}
    assert (tracked["1"].is_newest, tracked["2"].is_newest) == (False, True)


@pytest.mark.parametrize(("code", "is_another"), [(0, True), (1, True), (143, False)])
def test_a_job_whose_flow_has_ended_is_not_followed(
    world: JobWorld, code: int, *, is_another: bool
) -> None:
    """It is over soon, and then there is another; one that was stopped may go on, and is it."""
    flow_run_id = uuid4()
    run_dir = world.submit(flow_run_id)
    world.stand(run_dir, LedgerState.RUNNING)
    directory = RunDirectory(run_dir)
    write_exit(directory.attempt(claim(directory, Claimant(1, "12", 0))), code)

    assert world.submit(flow_run_id) == run_dir

    (tracked,) = world.jobs.tracked()
    assert (tracked.is_asked_again, tracked.entry.wish_cancel) == (is_another, is_another)


def test_a_worker_that_dies_before_the_ledger_leaves_the_directory_to_the_next(
    world: JobWorld,
) -> None:
    """Nothing was submitted, so nothing is counted."""
    flow_run_id = uuid4()
    (world.path / "runs" / str(flow_run_id) / "1").mkdir(parents=True)

    assert world.submit(flow_run_id).name == "1"


def test_a_lost_ledger_does_not_run_what_has_run(world: JobWorld) -> None:
    """The run directory tells; a job that runs still is asked for again, to be adopted."""
    flow_run_id = uuid4()
    directory = RunDirectory(world.path / "runs" / str(flow_run_id) / "1")
    directory.path.mkdir(parents=True)
    number = claim(directory, Claimant(1, "12", 0))

    while_it_runs = world.submit(uuid4()).parent.parent / str(flow_run_id)
    assert world.jobs._run_dir(while_it_runs).name == "1"

    write_exit(directory.attempt(number), 0)
    assert world.jobs._run_dir(while_it_runs).name == "2"


def test_it_is_submitted_and_known_to_the_next_worker(tmp_path: Path) -> None:
    """Through the real reconciler: in the ledger, at Slurm, and found by a successor."""
    world = JobWorld(tmp_path, is_led=True)
    flow_run_id = uuid4()

    run_dir = world.submit(flow_run_id)
    wait_until(lambda: world.ledger.entries()[0].slurm_job)
    world.jobs.close()
    successor = world.restarted()
    (found,) = successor.tracked()

    assert world.slurm.num_calls("sbatch") == 1
    assert (found.entry.run_dir, found.job.flow_run_id) == (str(run_dir), str(flow_run_id))
    assert world.submit(flow_run_id, successor) == run_dir
    successor.cancel([str(run_dir)])
    wait_until(lambda: world.slurm.num_calls("scancel"))
    successor.close()
    assert world.slurm.num_calls("sbatch") == 1


def test_what_was_handed_over_is_submitted_before_the_end(tmp_path: Path) -> None:
    """As ``prefect worker start --run-once`` ends at once."""
    world = JobWorld(tmp_path, is_led=True)
    world.submit(uuid4())

    world.jobs.close(grace_s=10.0)

    assert world.ledger.entries()[0].state is LedgerState.SUBMITTED


def test_its_files_are_closed_and_hold_no_secret(world: JobWorld) -> None:
    """Others see nothing of a run directory."""
    run_dir = world.submit(uuid4(), environment={"A": "b"})

    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(run_dir.parent.stat().st_mode) == 0o700
    assert json.loads((run_dir / "job.json").read_text())["environment"] == {"A": "b"}
    assert read_flow_run_job(run_dir).environment == {"A": "b"}


def test_what_prefect_knows_is_not_told_again(world: JobWorld) -> None:
    """Nor by the next worker; a job that is alive is looked after all the same."""
    over, alive = (world.submit(uuid4()) for _ in range(2))
    world.stand(over, LedgerState.FAILED)

    for run_dir in (over, alive):
        world.jobs.told(str(run_dir))

    successor = world.restarted()
    successor.close()
    for jobs in (world.jobs, successor):
        assert [one.entry.run_dir for one in jobs.tracked()] == [str(alive)]


def test_jobs_of_studies_are_none_of_flow_runs(world: JobWorld) -> None:
    """The ledger has all jobs of the user."""
    run_dir = world.submit(uuid4())
    with world.ledger.file.transaction() as connection:
        connection.execute(
            "UPDATE jobs SET plan = replace(plan, 'tasks.prefect_slurm', 'tasks.federated')"
            " WHERE run_dir = ?",
            (str(run_dir),),
        )

    assert world.jobs.tracked() == []


def test_another_directory_of_runs_makes_no_second_job(world: JobWorld) -> None:
    """The pool's runs_dir was changed while the flow run's job is alive; then it holds."""
    flow_run_id = uuid4()
    first = world.submit(flow_run_id)
    world.stand(first, LedgerState.RUNNING)
    world.runs_dir = world.path / "elsewhere"

    assert world.submit(flow_run_id) == first
    world.stand(first, LedgerState.FAILED)
    assert world.submit(flow_run_id) == world.runs_dir / str(flow_run_id) / "1"


def test_jobs_that_a_flow_has_submitted_are_not_taken_for_its_own(world: JobWorld) -> None:
    """They lie below its run directory, and outlive it; a retry is a job of its own."""
    flow_run_id = uuid4()
    first = world.submit(flow_run_id)
    world.runs_dir = first / "runs"
    world.submit(uuid4())
    world.stand(first, LedgerState.FAILED)
    world.runs_dir = world.path / "runs"

    assert world.submit(flow_run_id) == first.with_name("2")


def test_what_begins_and_ends_between_two_looks_is_found(world: JobWorld) -> None:
    """By another worker; the looks read only what is alive, new, or has not been told."""
    early, late = uuid4(), uuid4()
    first = world.submit(early)
    assert len(world.jobs.tracked()) == 1
    another = world.restarted()
    another.close()

    second = world.submit(late, another)
    for run_dir in (first, second):
        world.stand(run_dir, LedgerState.FINISHED)

    for _ in range(2):
        assert {Path(one.entry.run_dir) for one in world.jobs.tracked()} == {first, second}
    world.jobs.told(str(first))
    assert [Path(one.entry.run_dir) for one in world.jobs.tracked()] == [second]


def test_many_flow_runs_ask_the_cluster_once(world: JobWorld) -> None:
    """A controller that is asked for its partitions by each of a thousand has no time left."""
    for _ in range(5):
        world.jobs.partitions_faults(SlurmResources())

    assert world.slurm.num_calls("sinfo") == 1


def test_what_the_cluster_does_not_have_is_told(world: JobWorld) -> None:
    """Before anything is written down; a Slurm that does not answer holds nothing up."""
    (fault,) = world.jobs.partitions_faults(SlurmResources(partition="nowhere"))

    assert "nowhere" in fault
    assert world.jobs.partitions_faults(SlurmResources()) == []
