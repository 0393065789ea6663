"""Flow runs as the Prefect interface starts and steers them: deployments, a worker, a person."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tasks.services.pools import ensure_process_pool
from tasks.services.web import prefect_server
from tests.cluster.prefect_server import ask_prefect

POOL = "watershed-test"
_TIMEOUT_S = 300.0
_POLL_S = 0.2
_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Person:
    """Does what the buttons of the interface do, by the same requests.

    Args:
        api: Address of the server's API.
    """

    def __init__(self, api: str) -> None:
        self._api = api

    def deploy(self, flow_name: str, entrypoint: str) -> str:
        """Make the pool if it is not there, and a deployment; return the deployment's id.

        Args:
            flow_name: Name of the flow.
            entrypoint: Its module path.
        """
        ensure_process_pool(prefect_server(self._api, {}), POOL)
        flow_id = self._ask("/flows/", {"name": flow_name})["id"]
        deployment = {
            "name": flow_name,
            "flow_id": flow_id,
            "work_pool_name": POOL,
            "entrypoint": entrypoint,
            "enforce_parameter_schema": False,
        }
        return str(self._ask("/deployments/", deployment)["id"])

    def run(self, deployment_id: str, parameters: dict[str, Any]) -> str:
        """Press *Run*; return the flow run's id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        path = f"/deployments/{deployment_id}/create_flow_run"
        return str(self._ask(path, body)["id"])

    def cancel(self, flow_run_id: str) -> None:
        """Press *Cancel*."""
        self._set(flow_run_id, {"type": "CANCELLING", "name": "Cancelling"})

    def pause(self, flow_run_id: str, timeout_s: float = 300) -> None:
        """Press *Pause* (called *Suspend* in the older interface)."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + timeout_s))
        details = {"pause_timeout": until, "pause_reschedule": True}
        self._set(flow_run_id, {"type": "PAUSED", "name": "Suspended", "state_details": details})

    def resume(self, flow_run_id: str) -> None:
        """Press *Resume*."""
        self._ask(f"/flow_runs/{flow_run_id}/resume", {})

    def retry(self, flow_run_id: str) -> None:
        """Press *Retry*."""
        self._set(flow_run_id, {"type": "SCHEDULED", "name": "AwaitingRetry"})

    def _set(self, flow_run_id: str, state: dict[str, Any]) -> None:
        body = {"state": state, "force": True}
        answer = self._ask(f"/flow_runs/{flow_run_id}/set_state", body)
        assert answer["status"] == "ACCEPT", answer

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        """Look at a flow run."""
        return dict(self._ask(f"/flow_runs/{flow_run_id}"))

    def wait(self, flow_run_id: str, *names: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        """Wait until a flow run is in a state of one of some names; return the flow run.

        Args:
            flow_run_id: Its id.
            names: Names of states; none for any final one.
            timeout_s: Longest wait.

        Raises:
            AssertionError: It did not get there; the message has its log.
        """
        deadline = time.monotonic() + timeout_s
        run: dict[str, Any] = {}
        while time.monotonic() < deadline:
            run = self.flow_run(flow_run_id)
            if run["state_name"] in names or (not names and run["state_type"] in _FINAL):
                return run
            if run["state_type"] in _FINAL and not set(names) & {"Scheduled", "Running"}:
                break
            time.sleep(_POLL_S)
        told = "\n".join(self.log(flow_run_id))
        raise AssertionError(f"it is {run.get('state')}, not {names}; its log:\n{told}")

    def task_runs(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """Return the newest task run of each name."""
        return {run["name"]: run for run in self.all_task_runs(flow_run_id)}

    def all_task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """Return the task runs of all attempts of a flow run, oldest first."""
        body = {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return list(self._ask("/task_runs/filter", body))

    def log(self, flow_run_id: str) -> list[str]:
        """Return the messages of a flow run and of its tasks."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self._ask("/logs/filter", body)]

    def artifacts(self, flow_run_id: str, kind: str) -> list[dict[str, Any]]:
        """Return the artifacts of a flow run.

        Args:
            flow_run_id: Its id.
            kind: ``markdown`` (links too), ``progress`` or ``table``.
        """
        body = {
            "artifacts": {"flow_run_id": {"any_": [flow_run_id]}, "type": {"any_": [kind]}},
            "sort": "UPDATED_DESC",
        }
        return list(self._ask("/artifacts/filter", body))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return ask_prefect(self._api, path, body)


@contextmanager
def worker(api: str, directory: Path, environment: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Run a worker of the pool, as a person starts it.

    Args:
        api: Address of the server's API.
        directory: Where it works; its log is ``worker.log``.
        environment: Its environment, without the address.

    Yields:
        What returns the log.
    """
    log_path = directory / "worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--type", "process", "--name", "tester"],
            cwd=directory,
            env=environment
            | {
                "PREFECT_API_URL": api,
                "PREFECT_WORKER_QUERY_SECONDS": "0.5",
                "PREFECT_WORKER_PREFETCH_SECONDS": "0",
                "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
                "PREFECT_LOGGING_COLORS": "false",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield lambda: log_path.read_text(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def flow_process(flow_run_id: str) -> int:
    """Return the process that runs a flow run on this machine.

    Args:
        flow_run_id: Its id.

    Raises:
        LookupError: There is none.
    """
    mark = f"PREFECT__FLOW_RUN_ID={UUID(flow_run_id)}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                command = (path.parent / "cmdline").read_bytes()
                if b"_job" not in command and b"resource_tracker" not in command:
                    found.append(int(path.parent.name))
    if not found:
        raise LookupError(flow_run_id)
    return min(found)
