"""A real Prefect server on the loopback interface, which can be stopped and started again.

It begins its transactions as the one of ``watershed up`` does.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tasks.services.ports import any_port
from tasks.services.web import prefect_server

_START_TIMEOUT_S = 300


class PrefectServer:
    """One server; its database outlives its process.

    Args:
        directory: Where that is.
        used_home: A PREFECT_HOME to begin with; None for an empty one, in which making the database
            takes most of the start.
    """

    def __init__(self, directory: Path, used_home: Path | None = None) -> None:
        self._directory = directory
        if used_home is not None:
            shutil.copytree(used_home, directory / "prefect")
        self._port = any_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        """Its address, for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self._port}/api"

    def ask(self, path: str, body: object = None) -> Any:
        """Ask it, as ``ask_prefect``."""
        return ask_prefect(self.api, path, body)

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: It does not within five minutes; the message has its log.
        """
        environment = os.environ | {
            "PREFECT_HOME": str(self._directory / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [
            *(sys.executable, "-m", "tasks.services.sqlite_writers", "prefect", "server", "start"),
            *("--host", "127.0.0.1", "--port", str(self._port), "--no-ui"),
        ]
        log_path = self._directory / "prefect.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not prefect_server(self.api, {}).answers("/health"):
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


def use_home(directory: Path) -> None:
    """Make a PREFECT_HOME as a server leaves it.

    Args:
        directory: Its home will be ``prefect`` in there.

    Raises:
        RuntimeError: The server does not start.
    """
    server = PrefectServer(directory)
    server.start()
    server.stop()


def ask_prefect(api: str, path: str, body: object = None) -> Any:
    """Ask a Prefect server; again where it is busy with SQLite, as its own client does.

    Args:
        api: Its address.
        path: Begins with a slash.
        body: What to post as JSON; None to get.

    Returns:
        The answer, parsed; None if it is empty.

    Raises:
        ServicesError: It refuses, does not answer, or stays busy.
    """
    return prefect_server(api, {}).ask(path, body, timeout_s=60)
