"""Everything that `watershed up` starts, for the time of the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.services.state import Services, read_services

_START_S, _STOP_S = 180.0, 120.0
_WATERSHED = Path(sys.executable).with_name("watershed")
_CHOICES = ("PREFECT_", "MLFLOW_", "WATERSHED_")
"""Beginnings of variables by which a user chooses other servers or directories."""


@contextmanager
def started(data: Path) -> Iterator[Services]:
    """Start the servers and the worker on free ports, and stop them at the end.

    Args:
        data: Where they keep their data; made if it is not there.

    Yields:
        Their addresses, as soon as all of them answer.

    Raises:
        RuntimeError: They do not start within three minutes, or do not stop; with their output.
    """
    data.mkdir(parents=True, exist_ok=True)
    output = data / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [_WATERSHED, "up", "--prefect-port", "0", "--mlflow-port", "0", "--data", data],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield _await(data, process, output)
    finally:
        _stop(process, output)


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_CHOICES)}
    return kept | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def _await(data: Path, process: "subprocess.Popen[bytes]", output: Path) -> Services:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        services = read_services(data)
        if services is not None and services.phase == "up":
            return services
        time.sleep(0.1)
    raise RuntimeError(f"watershed up does not start:\n{output.read_text()[-4000:]}")


def _stop(process: "subprocess.Popen[bytes]", output: Path) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        told = output.read_text()[-4000:]
        raise RuntimeError(f"watershed up did not stop on Ctrl-C:\n{told}") from None
