"""The observer: what Prefect is told, and what its wishes do, from one look to the next."""

import asyncio
import logging
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from tasks.prefect_slurm.flow_runs import has_left_its_engine
from tasks.prefect_slurm.observer import Observer, infrastructure_pid
from tasks.slurm.entries import LedgerState
from tests.unit.prefect_slurm.world import JobWorld, PrefectTable


class _Look:
    """An observer of a pool, looked through by hand.

    Attributes:
        now_s: The steady time.
        submitting: What the worker is about to submit.
    """

    def __init__(self, world: JobWorld, prefect: PrefectTable) -> None:
        self.now_s = 1000.0
        self.submitting: set[UUID] = set()
        self._prefect = prefect
        self._observer = Observer(
            world.jobs,
            work_pool="pool",
            server="http://prefect/api",
            submitting=lambda: self.submitting,
            logger=logging.getLogger("test"),
            clock=lambda: self.now_s,
            lost_after_s=120.0,
        )

    def __call__(self, after_s: float = 2.0) -> None:
        """Look once, some seconds later."""
        self.now_s += after_s
        asyncio.run(self._observer.look(cast("PrefectClient", self._prefect)))


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    """Jobs that nobody leads."""
    return JobWorld(tmp_path)


@pytest.fixture
def prefect() -> PrefectTable:
    """A Prefect without flow runs."""
    return PrefectTable()


@pytest.fixture
def look(world: JobWorld, prefect: PrefectTable) -> _Look:
    """The observer."""
    return _Look(world, prefect)


def _queued(world: JobWorld, flow_run: FlowRun, reason: str = "Resources") -> Path:
    run_dir = world.submit(flow_run.id)
    world.stand(run_dir, LedgerState.SUBMITTED, slurm_job="12", reason=reason)
    return run_dir


def _wishes(world: JobWorld) -> list[str]:
    return [entry.run_dir for entry in world.ledger.wishes()]


def test_why_it_waits_is_told_once_a_reason(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """And not more often than twice a minute, however often Slurm changes its mind."""
    flow_run = prefect.add(StateType.PENDING, "Submitting")
    run_dir = _queued(world, flow_run)

    look()
    look()
    for after_s, reason in ((1.0, "Priority"), (1.0, "Resources"), (40.0, "Priority")):
        world.stand(run_dir, LedgerState.SUBMITTED, slurm_job="12", reason=reason)
        look(after_s)

    assert prefect.names(flow_run) == ["Queued (Resources)", "Queued (Priority)"]


def test_a_run_without_a_report_of_its_job_gets_it(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Its worker was killed between sbatch and the report."""
    flow_run = prefect.add(StateType.PENDING)
    run_dir = _queued(world, flow_run)

    look.submitting.add(flow_run.id)
    look()
    assert flow_run.infrastructure_pid is None
    look.submitting.clear()
    look()

    assert flow_run.infrastructure_pid == infrastructure_pid(world.jobs.cluster, run_dir)


@pytest.mark.parametrize("end", [LedgerState.INTERRUPTED, LedgerState.FINISHED])
def test_a_run_that_is_retried_while_its_job_dies_gets_another_one(
    world: JobWorld, prefect: PrefectTable, look: _Look, end: LedgerState
) -> None:
    """It waits for the end of the former, and has not crashed with it."""
    flow_run = prefect.add(StateType.CANCELLED)
    first = _queued(world, flow_run)
    world.stand(first, LedgerState.RUNNING)
    look()
    assert _wishes(world) == [str(first)]

    prefect.set(flow_run, StateType.PENDING)  # a person has retried it, and a worker has taken it
    while_it_dies = world.submit(flow_run.id)
    for _ in range(3):
        look(10.0)
    told = prefect.names(flow_run)
    world.stand(first, end)
    look()
    taken_again = prefect.flow_runs[flow_run.id].state
    prefect.set(flow_run, StateType.PENDING)
    second = world.submit(flow_run.id)
    look(10.0)
    look(10.0)

    assert while_it_dies == first
    assert told == ["Queued (its former job is ending)"]
    assert "job 12 is gone" in str(prefect.told[0][1].message)
    assert taken_again is not None
    assert (taken_again.type, taken_again.name) == (StateType.SCHEDULED, "Rescheduled")
    assert (first.name, second.name) == ("1", "2")
    assert "Crashed" not in prefect.names(flow_run)


def test_a_run_that_is_retried_before_anybody_saw_its_end_gets_another_job(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Its engine has left the job, which goes on with what was to come after the engine."""
    flow_run = prefect.add(StateType.PENDING)
    first = _queued(world, flow_run)
    world.stand(first, LedgerState.RUNNING)
    for kind in (StateType.RUNNING, StateType.CANCELLED, StateType.SCHEDULED, StateType.PENDING):
        prefect.set(flow_run, kind)

    has_left = asyncio.run(has_left_its_engine(cast("PrefectClient", prefect), flow_run.id))
    world.submit(flow_run.id, has_left=has_left)
    look()
    wishes = _wishes(world)
    world.stand(first, LedgerState.INTERRUPTED)
    look()
    taken_again = prefect.flow_runs[flow_run.id].state

    assert wishes == [str(first)]
    assert taken_again is not None
    assert (taken_again.type, taken_again.name) == (StateType.SCHEDULED, "Rescheduled")


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("PENDING", False),
        ("PENDING RUNNING SCHEDULED PENDING", False),  # after a preemption, in the same job
        ("PENDING RUNNING PAUSED SCHEDULED PENDING", True),
        ("PENDING RUNNING FAILED SCHEDULED PENDING", True),
        ("PENDING RUNNING CANCELLED SCHEDULED PENDING RUNNING SCHEDULED PENDING", False),
    ],
)
def test_an_end_counts_until_it_runs_again(
    prefect: PrefectTable, since: str, *, expected: bool
) -> None:
    """What Prefect knows of a flow run that it hands over."""
    first, *others = (StateType[name] for name in since.split())
    flow_run = prefect.add(first)
    for kind in others:
        prefect.set(flow_run, kind)

    found = asyncio.run(has_left_its_engine(cast("PrefectClient", prefect), flow_run.id))

    assert found is expected


def test_a_job_that_was_cancelled_elsewhere_is_not_taken_again(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """By ``watershed cancel``, say: nobody has asked for the flow run since."""
    flow_run = prefect.add(StateType.PENDING)
    run_dir = _queued(world, flow_run)

    world.jobs.cancel([str(run_dir)])
    world.stand(run_dir, LedgerState.INTERRUPTED)
    look(10.0)
    look(10.0)

    assert prefect.names(flow_run)[-1] == "Crashed"


@pytest.mark.parametrize("kind", [StateType.CANCELLING, StateType.CANCELLED])
def test_a_cancelled_run_has_its_queued_job_cancelled_at_the_next_look(
    world: JobWorld, prefect: PrefectTable, look: _Look, kind: StateType
) -> None:
    """No message of Prefect's is needed for that."""
    flow_run = prefect.add(StateType.PENDING)
    run_dir = _queued(world, flow_run)
    look()

    prefect.set(flow_run, kind)
    look()

    assert _wishes(world) == [str(run_dir)]


def test_a_cancelled_run_whose_job_is_gone_is_told_so(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """The engine may have had no time to."""
    flow_run = prefect.add(StateType.CANCELLING)
    run_dir = _queued(world, flow_run)
    world.stand(run_dir, LedgerState.INTERRUPTED, slurm_job="12")

    look()
    look()

    assert prefect.names(flow_run) == ["Cancelled"]
    assert world.jobs.tracked() == []


def test_a_job_that_ends_without_a_word_is_a_crash_with_its_last_lines(
    world: JobWorld, prefect: PrefectTable, look: _Look, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, after the engine has had time to tell it itself; not again by anybody."""
    flow_run = prefect.add(StateType.RUNNING)
    run_dir = _queued(world, flow_run)
    (run_dir / "stdout.log").write_text("line 1\nMemoryError\n")
    words = "Out of memory. Job 12 ran out of memory. Set launcher.memory (higher)"
    world.stand(run_dir, LedgerState.FAILED, slurm_job="12", failure="oom", message=words)

    look()
    assert prefect.told == []
    with caplog.at_level(logging.ERROR):
        look(5.0)
    look()
    look()

    ((_, state),) = prefect.told
    assert state.type is StateType.CRASHED
    assert str(state.message).startswith("[oom] Out of memory. Job 12")
    assert "Set memory (higher)" in str(state.message)
    assert "MemoryError" in caplog.text
    assert world.jobs.tracked() == []


def test_an_engine_that_has_told_the_end_is_not_contradicted(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Its last state arrives a moment after its job has ended."""
    flow_run = prefect.add(StateType.RUNNING)
    run_dir = _queued(world, flow_run)
    world.stand(run_dir, LedgerState.FINISHED, slurm_job="12")
    look()

    prefect.set(flow_run, StateType.COMPLETED)
    look(10.0)

    assert prefect.told == []
    assert world.jobs.tracked() == []


def test_the_end_of_an_earlier_job_does_not_crash_a_retry(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Neither while it is submitted nor afterwards."""
    flow_run = prefect.add(StateType.PENDING)
    first = _queued(world, flow_run)
    world.stand(first, LedgerState.FAILED, slurm_job="12", failure="node")

    look.submitting.add(flow_run.id)
    look()
    look(60.0)
    _queued(world, flow_run)
    look.submitting.clear()
    look(60.0)

    assert "Crashed" not in prefect.names(flow_run)


def test_a_limits_slot_is_kept_while_the_job_waits(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Prefect gives it away after 300 s in the queue, and cancels the run at its start."""
    flow_run = prefect.add(StateType.PENDING)
    assert flow_run.state is not None
    flow_run.state.state_details.deployment_concurrency_lease_id = lease = uuid4()
    _queued(world, flow_run, reason="Priority")
    flow_run.state.name = "Queued (Priority)"

    for _ in range(100):
        look(3.0)

    assert set(prefect.leases) == {lease}
    assert len(prefect.leases) == 5


def test_a_run_that_a_dead_worker_took_is_taken_again(
    prefect: PrefectTable, look: _Look, world: JobWorld
) -> None:
    """It is Pending and has no job; after two minutes it is scheduled again, not before."""
    lost = prefect.add(StateType.PENDING)
    wished = prefect.add(StateType.CANCELLING)
    busy = prefect.add(StateType.PENDING)
    queued = prefect.add(StateType.PENDING)
    _queued(world, queued)
    look.submitting.add(busy.id)

    look(20.0)
    look(100.0)
    assert prefect.names(lost) == []
    look(25.0)

    assert prefect.names(lost) == ["Rescheduled"]
    assert prefect.names(wished) == ["Cancelled"]
    assert prefect.names(busy) == []
    assert prefect.names(queued) == ["Queued (Resources)"]


def test_the_report_of_an_earlier_job_hides_no_lost_retry(
    prefect: PrefectTable, look: _Look, world: JobWorld
) -> None:
    """A retried flow run keeps the report of where its first job was; another cluster's stands."""
    retried, elsewhere = (prefect.add(StateType.PENDING) for _ in range(2))
    first = _queued(world, retried)
    world.stand(first, LedgerState.FAILED)
    world.jobs.told(str(first))
    retried.infrastructure_pid = infrastructure_pid(world.jobs.cluster, first)
    elsewhere.infrastructure_pid = "frontier:/lustre/1"

    look(20.0)
    look(130.0)

    assert prefect.names(retried) == ["Rescheduled"]
    assert prefect.names(elsewhere) == []


def test_a_job_of_another_users_worker_is_not_begun_again(
    prefect: PrefectTable, look: _Look, world: JobWorld
) -> None:
    """It is on this cluster, and stands in a ledger that we do not see: it may wait for days."""
    queued = prefect.add(StateType.PENDING)
    queued.infrastructure_pid = infrastructure_pid(world.jobs.cluster, "/home/other/runs/f/1")

    look(20.0)
    look(130.0)

    assert prefect.names(queued) == []


def test_a_completed_run_whose_job_is_queued_again_has_it_cancelled(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Not at once: the ledger may not have heard yet that it runs."""
    run_dir = _queued(world, prefect.add(StateType.COMPLETED))

    look()
    look(20.0)
    assert _wishes(world) == []
    look(20.0)

    assert _wishes(world) == [str(run_dir)]


def test_jobs_of_other_pools_and_servers_are_left_alone(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """The ledger is the user's, who may have several workers."""
    world.submit(prefect.add(StateType.CANCELLED).id, work_pool="other")
    world.submit(prefect.add(StateType.CANCELLED).id, server="http://other/api")

    look()

    assert _wishes(world) == []


def test_a_prefect_that_has_lost_its_data_ends_no_job(world: JobWorld, look: _Look) -> None:
    """Unknown is never final."""
    world.submit(uuid4())

    look()

    assert _wishes(world) == []
    assert len(world.jobs.tracked()) == 1


def test_a_job_that_is_over_waits_for_a_prefect_that_has_lost_its_data(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """It is told when the flow run is there again; of a deleted one nothing is left to tell."""
    deleted, lost = (prefect.add(StateType.RUNNING) for _ in range(2))
    for flow_run in (deleted, lost):
        run_dir = _queued(world, flow_run)
        world.stand(run_dir, LedgerState.FAILED, slurm_job="12", failure="node")
        del prefect.flow_runs[flow_run.id]

    look()
    look(600.0)
    prefect.flow_runs[lost.id] = lost
    look()
    look(5.0)
    assert prefect.names(lost) == ["Crashed"]
    look(3600.0)

    assert world.jobs.tracked() == []


def test_one_flow_run_that_prefect_refuses_holds_no_other_up(
    world: JobWorld, prefect: PrefectTable, look: _Look, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been deleted a moment ago; that is said once."""
    refused, queued = (prefect.add(StateType.PENDING) for _ in range(2))
    for flow_run in (refused, queued):
        _queued(world, flow_run)
    prefect.refuses.add(refused.id)

    with caplog.at_level(logging.WARNING):
        look()
        look()

    assert prefect.names(queued) == ["Queued (Resources)"]
    assert caplog.text.count("Prefect refuses what is told of brisk-owl") == 1


def test_a_prefect_that_does_not_answer_is_asked_again(
    world: JobWorld, prefect: PrefectTable, look: _Look
) -> None:
    """Nothing is forgotten meanwhile."""
    flow_run = prefect.add(StateType.CANCELLING)
    run_dir = _queued(world, flow_run)
    prefect.is_up = False
    with pytest.raises(httpx.ConnectError):
        look()

    prefect.is_up = True
    look()

    assert _wishes(world) == [str(run_dir)]
