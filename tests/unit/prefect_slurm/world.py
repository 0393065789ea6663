"""A worker's view of a fake cluster, and a Prefect that is a table of flow runs."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.prefect_slurm.jobs import FlowRunJobs
from tasks.prefect_slurm.records import FlowRunJob
from tasks.slurm.commands import SlurmCli
from tasks.slurm.entries import LedgerState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.slurm_launcher import LEDGER_NAME
from tests.fakes.slurm import FakeSlurm

CONFIG = SlurmLauncherConfig(pack="single", max_retries=0)


def wait_until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait until something is so."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < limit_s, "it did not come to that"
        time.sleep(0.02)


class JobWorld:
    """The jobs of one user on a cluster whose clock stands still.

    Args:
        path: A directory for all files.
        is_led: Whether a reconciler runs; else what becomes of a job is written by ``stand``.
    """

    def __init__(self, path: Path, *, is_led: bool = False) -> None:
        self.path = path
        self.runs_dir = path / "runs"
        self.slurm = FakeSlurm(0)
        self.jobs = self.restarted()
        if not is_led:
            self.jobs.close()
        self.ledger = LeaderLedger(LedgerFile(path / "state" / LEDGER_NAME))

    def restarted(self) -> FlowRunJobs:
        """Return what another worker process finds."""
        return FlowRunJobs(SlurmCli(self.slurm.run), self.path / "state")

    def job(self, flow_run_id: UUID, **changes: Any) -> FlowRunJob:
        """Return the job of a flow run."""
        values = {
            "flow_run_id": str(flow_run_id),
            "flow_run_name": "brisk-owl",
            "work_pool": "pool",
            "server": "http://prefect/api",
        }
        return FlowRunJob.model_validate(values | changes)

    def submit(
        self,
        flow_run_id: UUID,
        jobs: FlowRunJobs | None = None,
        *,
        has_left: bool = False,
        **changes: Any,
    ) -> Path:
        """Ask for a flow run, as a worker does."""
        return (jobs or self.jobs).submit(
            self.runs_dir / str(flow_run_id),
            self.job(flow_run_id, **changes),
            SlurmResources(),
            config=CONFIG,
            has_left=has_left,
        )

    def stand(self, run_dir: Path, state: LedgerState, **changes: Any) -> None:
        """Write how a job stands."""
        entry = self.ledger.entry(str(run_dir))
        assert entry is not None
        entry = dataclasses.replace(entry, state=state, **changes)
        self.ledger.observe([entry])
        if state.job_state.is_final:
            self.ledger.end(entry, None, changes.get("message", ""), 0.0)


class PrefectTable:
    """Prefect's API, as far as the observer asks it; a table of flow runs.

    Attributes:
        flow_runs: The table.
        states: Every state that a flow run was moved to.
        told: Every state that was taken: id of the flow run, and the state.
        leases: The leases that were renewed.
        is_up: Whether it answers.
        refuses: Flow runs that it knows no more when it is told of them.
    """

    def __init__(self) -> None:
        self.flow_runs: dict[UUID, FlowRun] = {}
        self.states: dict[UUID, list[State[Any]]] = {}
        self.told: list[tuple[UUID, State[Any]]] = []
        self.leases: list[UUID] = []
        self.is_up = True
        self.refuses: set[UUID] = set()

    def add(self, kind: StateType, name: str = "") -> FlowRun:
        """Add a flow run in a state."""
        flow_run = FlowRun(id=uuid4(), flow_id=uuid4(), name="brisk-owl")
        self.flow_runs[flow_run.id] = flow_run
        self.set(flow_run, kind, name)
        return flow_run

    def set(self, flow_run: FlowRun, kind: StateType, name: str = "") -> None:
        """Move a flow run."""
        flow_run.state = State(type=kind, name=name or None)
        self.states.setdefault(flow_run.id, []).append(flow_run.state)

    def names(self, flow_run: FlowRun) -> list[str]:
        """Return the names of the states that were told of a flow run."""
        return [str(state.name) for flow_run_id, state in self.told if flow_run_id == flow_run.id]

    async def read_flow_runs(
        self,
        *,
        flow_run_filter: Any,
        work_pool_filter: Any = None,
        limit: int,
        offset: int = 0,
    ) -> list[FlowRun]:
        """Find flow runs by id or by type.

        Raises:
            ConnectError: It does not answer.
        """
        del work_pool_filter
        if not self.is_up:
            raise httpx.ConnectError("refused")
        found = list(self.flow_runs.values())
        if flow_run_filter.id is not None:
            found = [one for one in found if one.id in flow_run_filter.id.any_]
        if flow_run_filter.state is not None:
            kinds = flow_run_filter.state.type.any_
            found = [one for one in found if one.state and one.state.type in kinds]
        return [one.model_copy(deep=True) for one in found[offset : offset + limit]]

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        """Read one flow run."""
        return self.flow_runs[flow_run_id]

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State[Any]]:
        """Read all states of one flow run, the oldest first."""
        return self.states[flow_run_id]

    async def update_flow_run(self, flow_run_id: UUID, *, infrastructure_pid: str) -> None:
        """Take a report of where the job is.

        Raises:
            ObjectNotFound: There is no such flow run.
        """
        if flow_run_id in self.refuses:
            raise ObjectNotFound(KeyError(flow_run_id))
        self.flow_runs[flow_run_id].infrastructure_pid = infrastructure_pid

    async def set_flow_run_state(
        self, flow_run_id: UUID, state: State[Any], *, force: bool = False
    ) -> None:
        """Take a state, but refuse what Prefect refuses."""
        now = self.flow_runs[flow_run_id].state
        assert now is not None
        if not force:
            if now.is_final():
                return
            if state.type is StateType.PENDING and now.type is not StateType.PENDING:
                return
        self.flow_runs[flow_run_id].state = state
        self.told.append((flow_run_id, state))

    async def renew_concurrency_lease(self, lease_id: UUID, lease_duration: float) -> None:
        """Renew a lease."""
        assert lease_duration >= 300
        self.leases.append(lease_id)
