"""A real Prefect server on the loopback interface, which can be stopped and started again."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_START_TIMEOUT_S = 120


class PrefectServer:
    """One server; its database outlives its process.

    Args:
        directory: Where that is.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        """Its address, for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: It does not within two minutes; the message has its log.
        """
        environment = os.environ | {
            "PREFECT_HOME": str(self._directory / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", "127.0.0.1", "--port", str(self._port), "--no-ui"),
        ]
        log_path = self._directory / "prefect.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(
                    f"the Prefect server does not start:\n{log_path.read_text()[-2000:]}"
                )
            time.sleep(0.2)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=2) as answer:  # noqa: S310
                return int(answer.status) == 200
        except (OSError, urllib.error.URLError):
            return False
