"""A real MLflow server on the loopback interface, which can be stopped and started again."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tasks.services.ports import any_port

_START_TIMEOUT_S = 120


class MlflowServer:
    """One server; its database and artifacts outlive its process.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = any_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def database(self) -> Path:
        """Its SQLite database."""
        return self._directory / "mlflow.db"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: It does not within two minutes; the message has its log.
        """
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--backend-store-uri", f"sqlite:///{self.database}"),
            *("--artifacts-destination", str(self._directory / "artifacts")),
        ]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # starts in half the time
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log_text = (self._directory / "server.log").read_text()
                raise RuntimeError(f"the MLflow server does not start:\n{log_text[-2000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it, with its workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:  # noqa: S310
                return int(answer.status) == 200
        except (OSError, urllib.error.URLError):
            return False


def metric_rows(database: Path, run_id: str) -> list[tuple[str, int, float, int]]:
    """Read every metric row of a run, from the database itself: (key, step, value, timestamp)."""
    with sqlite3.connect(database) as connection:
        return list(
            connection.execute(
                "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ?"
                " ORDER BY key, step, timestamp",
                [run_id],
            )
        )
