"""Flow runs that are asked for at once: how many a Prefect server with SQLite refuses, how long."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tasks.services.errors import BusyError
from tasks.services.ports import any_port
from tasks.services.web import Server, prefect_server
from tests.integration.flow_runs import Person

_PLAIN = ["prefect", "server", "start"]
_OF_UP = ["tasks.services.sqlite_writers", *_PLAIN]
_NUM_EACH = 20
_LATER = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}


@contextmanager
def _running(directory: Path, command: list[str]) -> Iterator[Server]:
    """Start a Prefect server; it is asked once, and not again if it is busy."""
    port = str(any_port())
    log = (directory / "prefect.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", port, "--no-ui"],
        env=os.environ | {"PREFECT_HOME": str(directory), "DO_NOT_TRACK": "1"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    server = replace(prefect_server(f"http://127.0.0.1:{port}/api", {}), pauses_s=())
    try:
        while not server.answers("/health"):
            assert process.poll() is None, (directory / "prefect.log").read_text()
            time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ask_at_once(server: Server, num_people: int) -> tuple[int, int, float]:
    """Let half of them start flow runs of a deployment, and half report states of others.

    Returns:
        How many flow runs of the deployment were refused, of how many, and the seconds in all.
    """
    deployment = Person(server.url).deploy("study", "study.study")
    flow_id = server.ask(f"/deployments/{deployment}")["flow_id"]

    def start(_: int) -> None:
        server.ask(f"/deployments/{deployment}/create_flow_run", {"state": _LATER}, timeout_s=300)

    def report(_: int) -> None:
        run = server.ask("/flow_runs/", {"flow_id": flow_id}, timeout_s=300)["id"]
        state = {"state": {"type": "RUNNING"}}
        server.ask(f"/flow_runs/{run}/set_state", state, timeout_s=300)

    def refusals(ask: Callable[[int], None]) -> int:
        num_refused = 0
        for number in range(_NUM_EACH):
            try:
                ask(number)
            except BusyError:
                num_refused += 1
        return num_refused

    began = time.monotonic()
    with ThreadPoolExecutor(num_people) as people:
        starting = [people.submit(refusals, start) for _ in range(num_people // 2)]
        reporting = [people.submit(refusals, report) for _ in range(num_people // 2)]
    took = time.monotonic() - began
    del reporting
    return sum(one.result() for one in starting), len(starting) * _NUM_EACH, took


@pytest.mark.parametrize("num_people", [4, 16])
def test_flow_runs_asked_for_at_once(
    num_people: int,
    tmp_path: Path,
    benchmark: BenchmarkFixture,
    report: Callable[[str], None],
) -> None:
    """Of Prefect's own command, and of the one of ``watershed up``, which refuses none."""

    def measure() -> int:
        for name, command in (("prefect server start", _PLAIN), ("watershed up", _OF_UP)):
            directory = tmp_path / command[0]
            directory.mkdir()
            with _running(directory, command) as server:
                num_refused, num_asked, took = _ask_at_once(server, num_people)
            report(
                f"{num_people:3d} at once  {name:<20}  "
                f"{num_refused:3d} of {num_asked} flow runs refused, {took:.1f} s"
            )
        return num_refused

    assert benchmark.pedantic(measure, rounds=1) == 0  # type: ignore[no-untyped-call]
