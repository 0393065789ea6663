"""A pool of type slurm, a worker process for it, and flow runs, on a real Prefect server."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Cancelling

from tasks.prefect_slurm.worker import SlurmWorker

ROOT = Path(__file__).parents[2]


class SlurmPool:
    """One pool at a server.

    Args:
        client: Of the server.
        name: Of the pool; made by this.
        environment: Of its workers: a user of a test cluster and of the server.
        directory: Where the workers' outputs are.
        variables: Defaults of the pool's job variables.
    """

    def __init__(
        self,
        client: SyncPrefectClient,
        name: str,
        environment: Mapping[str, str],
        directory: Path,
        variables: Mapping[str, Any],
    ) -> None:
        self.name = name
        self._client = client
        self.environment = dict(environment) | {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_CLIENT_METRICS_ENABLED": "false",
        }
        self._directory = directory
        template = SlurmWorker.get_default_base_job_template()
        for variable, value in variables.items():
            template["variables"]["properties"][variable]["default"] = value
        client.create_work_pool(
            WorkPoolCreate(name=name, type="slurm", base_job_template=template), overwrite=True
        )

    @contextmanager
    def worker(self, module: str = "") -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker for the time of a block.

        Args:
            module: Another worker than the command line's.

        Yields:
            Its process; it is killed at the end.
        """
        own = ["prefect", "worker", "start", "--type", "slurm", "--pool", self.name]
        command = [module, self.name] if module else own
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def log(self) -> Path:
        """What the workers have said."""
        return self._directory / "worker.log"

    def run(self, entrypoint: str, parameters: dict[str, Any], **variables: Any) -> FlowRun:
        """Trigger a flow run.

        Args:
            entrypoint: Module path of the flow.
            parameters: Of the flow.
            variables: Job variables of this run.
        """
        name = entrypoint.rpartition(".")[2].replace("_", "-")
        flow_id = self._client.create_flow_from_name(name)
        deployment_id = self._client.create_deployment(
            flow_id,
            name=f"{self.name}-{name}",
            entrypoint=entrypoint,
            work_pool_name=self.name,
            pull_steps=[
                {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
            ],
        )
        return self._client.create_flow_run_from_deployment(
            deployment_id, parameters=parameters, job_variables=variables
        )

    def cancel(self, flow_run: FlowRun) -> None:
        """Cancel a flow run, as the UI does."""
        self._client.set_flow_run_state(flow_run.id, Cancelling())

    def retry(self, flow_run: FlowRun) -> None:
        """Retry a flow run, as the UI does."""
        self._client.set_flow_run_state(flow_run.id, AwaitingRetry())

    def state(self, flow_run: FlowRun) -> State[Any]:
        """Return the state of a flow run now."""
        state = self.again(flow_run).state
        assert state is not None
        return state

    def again(self, flow_run: FlowRun) -> FlowRun:
        """Read a flow run again."""
        return self._client.read_flow_run(UUID(str(flow_run.id)))

    def told(self, flow_run: FlowRun) -> str:
        """Return all that is known of a flow run, for the message of a failure."""
        states = [f"{one.name}: {one.message}" for one in self._states(flow_run)]
        directories = self._directory.rglob(f"{flow_run.id}/*/*")
        ends = [
            f"--- {path}\n{path.read_text(errors='replace')[-3000:]}"
            for path in [self.log, *directories]
            if path.suffix in {".log", ".out"}
        ]
        return "\n".join([*states, *ends])

    def state_names(self, flow_run: FlowRun) -> list[str]:
        """Return the names of all states that a flow run has had."""
        return [str(one.name) for one in self._states(flow_run)]

    def _states(self, flow_run: FlowRun) -> list[State[Any]]:
        return list(self._client.read_flow_run_states(flow_run.id))

    def until(self, flow_run: FlowRun, *names: str, limit_s: float = 60.0) -> State[Any]:
        """Wait until a flow run is in one of some states, by name or by its beginning."""
        begun_s = time.monotonic()
        while True:
            state = self.state(flow_run)
            if (state.name or "").startswith(names):
                return state
            if state.is_final() or time.monotonic() - begun_s > limit_s:
                pytest.fail(f"it is not {names}: {self.told(flow_run)}")
            time.sleep(0.2)


def marks(path: Path) -> list[str]:
    """Return what ``waiting_flow`` has written."""
    return path.read_text().split() if path.exists() else []


def environment_of_job(run_dir: Path) -> dict[str, str]:
    """Return the variables that a job is told in its ``job.json``."""
    found: dict[str, str] = json.loads((run_dir / "job.json").read_text())["environment"]
    return found


def pid_of(flow_run: FlowRun) -> Path:
    """Return the run directory of a flow run's job."""
    return Path((flow_run.infrastructure_pid or "").partition(":")[2])
