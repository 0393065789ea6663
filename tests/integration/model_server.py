"""``mlflow models serve`` on the loopback interface, for as long as it is needed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.services.ports import any_port

_START_TIMEOUT_S = 300


@contextlib.contextmanager
def served(model: str, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Serve a model in this Python environment, as the document shows it.

    Args:
        model: Its URI.
        directory: Where the server runs, and its log is.
        environment: Its environment.

    Yields:
        Its address, as soon as it answers.

    Raises:
        RuntimeError: It does not within five minutes; the message has its log.
    """
    port = str(any_port())
    command = [*(sys.executable, "-m", "mlflow", "models", "serve", "-m", model)]
    command += ["--env-manager", "local", "--port", port]
    # It starts ``uvicorn`` by its name, which an activated environment has on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    log = directory / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, "PATH": path},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{model} is not served:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ping", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
