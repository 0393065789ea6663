"""`watershed up` as a process of a user who has no servers, and what its user then does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.errors import UnreachableError
from tasks.services.login import Login, find_login
from tasks.services.web import mlflow_server, prefect_server

_WATERSHED = Path(sys.executable).with_name("watershed")
_START_S = 400.0
RUN_S = 600.0
STOP_S = 150.0
EXPERIMENT: dict[str, Any] = {
    "kind": "federated",
    "workers": 2,
    "rounds": 20,
    "evaluate_every": 5,
    "model": {"name": "quadratic", "centres": [0, 100]},
    "algorithm": {"name": "afa_cd", "collect": 2},
    "worker": {"lr": 0.2},
    "arrivals": {"kind": "synchronous"},
}
"""Runs in a moment, and needs no data."""


def user_environment(**own: str) -> dict[str, str]:
    """The environment of a user who has no servers."""
    prefixes = ("PREFECT_", "MLFLOW_", "WATERSHED_", "PG")
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)} | own


@dataclass
class Up:
    """A `watershed up` that is up.

    Attributes:
        data: Its data directory.
        process: Its process.
    """

    data: Path
    process: "subprocess.Popen[bytes]"

    @property
    def output(self) -> str:
        """What it has printed."""
        return (self.data.parent / "up.log").read_text()

    @property
    def state(self) -> dict[str, Any]:
        """Its services.json."""
        state: dict[str, Any] = json.loads((self.data / "services.json").read_text())
        return state

    @property
    def login(self) -> Login | None:
        """What its servers ask for; None if they ask for nothing."""
        return find_login(self.data)

    def ask(self, path: str, body: object = None) -> Any:
        """Ask its Prefect server."""
        known = self.login.of_clients() if self.login else {}
        return prefect_server(self.state["prefect_api"], known).ask(path, body, timeout_s=60)

    def ask_mlflow(self, path: str) -> Any:
        """Ask its MLflow server."""
        known = self.login.of_clients() if self.login else {}
        return mlflow_server(self.state["mlflow"], known).ask(path, timeout_s=60)

    def start_study(self, launcher: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """Do what "Run" in the browser does; return the id of the flow run."""
        study = {"name": "middle", "experiment": EXPERIMENT | changes}
        study |= {} if launcher is None else {"launcher": launcher}
        deployment = self.ask("/deployments/name/federated-study/federated-study")
        body = {"parameters": {"study": study}, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def wait_for(self, run_id: str, *states: str) -> dict[str, Any]:
        """Wait until a flow run is in a state."""
        deadline = time.monotonic() + RUN_S
        run: dict[str, Any] = {"state_type": "", "state": "not known"}
        while True:
            with contextlib.suppress(UnreachableError):  # on a machine with other work, for a while
                run = self.ask(f"/flow_runs/{run_id}")
            if run["state_type"] in states:
                return run
            assert time.monotonic() < deadline, f"{run['state']}\n{self.log('worker')}"
            time.sleep(0.5)

    def log(self, name: str) -> str:
        """Return the end of a log."""
        return (self.data / "logs" / f"{name}.log").read_text()[-3000:]


def start_up(directory: Path, *options: str, **own: str) -> Up:
    """Start `watershed up` and wait until it says that all are well.

    Args:
        directory: Its data are in ``data`` there, what it prints in ``up.log``.
        options: Further options.
        own: Further variables of its environment.
    """
    data = directory / "data"
    command = [str(_WATERSHED), "up", "--data", str(data)]
    command += ["--prefect-port", "0", "--mlflow-port", "0"]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options],
            env=user_environment(**own),
            stdout=log,
            stderr=log,
            cwd=directory,
            umask=0o022,  # as most users have it
        )
    up = Up(data, process)
    deadline = time.monotonic() + _START_S
    while "all are well" not in up.output:
        assert process.poll() is None, up.output
        assert time.monotonic() < deadline, up.output
        time.sleep(0.2)
    return up


def stop_up(up: Up, signum: signal.Signals = signal.SIGINT) -> int:
    """Stop it, by default as Ctrl-C does; return its exit code."""
    up.process.send_signal(signum)
    return up.process.wait(STOP_S)


def watershed(*arguments: str | Path, **own: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of such a user to its end."""
    return subprocess.run(
        [_WATERSHED, *arguments],
        env=user_environment(**own),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


def succeed(*command: str | Path, environment: Mapping[str, str], directory: Path) -> str:
    """Run a command that has to succeed; return what it says."""
    ended = subprocess.run(
        command,
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()
