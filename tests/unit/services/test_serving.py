"""Servers that are started, and what is left of them. Real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.services.plan import Service
from tasks.services.processes import all_processes, identify, is_running, session_of
from tasks.services.serving import Served, await_leftovers, end_rest, start
from tasks.services.state import KeptProcess

_START_S = 10.0

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc and prctl are Linux's"
)


def _service(tmp_path: Path, script: str) -> Service:
    return Service(
        name="server",
        command=("bash", "-c", script),
        environment=dict(os.environ),
        log=tmp_path / "logs" / "server.log",
    )


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def _session(session: int) -> list[int]:
    return [pid for pid in all_processes() if session_of(pid) == session]


def test_what_an_earlier_server_has_written_is_no_cause(tmp_path: Path) -> None:
    """A server that ends without a word has no "disk is full" of last week."""
    log = tmp_path / "logs" / "server.log"
    log.parent.mkdir()
    log.write_text("the disk is full\n")

    silent = start(_service(tmp_path, "exit 1"))
    silent.process.wait(_START_S)
    telling = start(_service(tmp_path, "echo said"))
    telling.process.wait(_START_S)

    assert Served(silent.service, silent.process, log.stat().st_size, 0.0).log() == ""
    assert telling.log() == "said\n"


def test_a_keeper_that_is_killed_leaves_its_port_free(tmp_path: Path) -> None:
    """What the server has started lives on, until it is ended with the rest of the session."""
    served = start(_service(tmp_path, f"sleep 60 & touch {tmp_path}/ready; wait"))
    _wait_for((tmp_path / "ready").exists)

    served.process.kill()
    served.process.wait()
    num_left = len(_session(served.process.pid))
    end_rest(served)

    assert num_left
    _wait_for(lambda: not any(is_running(identify(pid)) for pid in _session(served.process.pid)))


@pytest.mark.parametrize(("stops", "said"), [([], "interrupted ended"), ([2], "interrupted")])
def test_what_a_killed_up_has_left_may_end_in_good_order(
    tmp_path: Path, stops: list[int], said: str
) -> None:
    """Its keepers are stopping; a signal would end their patience with the flow runs."""
    log = tmp_path / "log"
    flow = tmp_path / "the_flow.py"
    flow.write_text(f"""
import pathlib, signal, time
def stop(*_):
    pathlib.Path("{log}").write_text("interrupted")
    time.sleep(2)
    pathlib.Path("{log}").write_text("interrupted ended")
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
pathlib.Path("{tmp_path}/ready").touch()
while True:
    time.sleep(0.1)
""")
    starter = f"""
import os, subprocess, sys, threading, time
for _ in range(8):  # `up` has some, too; its death is told to its children once a thread
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
keeper = [sys.executable, "-m", "tasks.services.keeper", "--parent", str(os.getpid())]
worker = ["bash", "-c", "{sys.executable} {flow} & while true; do sleep 0.1; done"]
print(subprocess.Popen([*keeper, "--first", "the_flow.py", "--", *worker],
                       start_new_session=True).pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        left = KeptProcess(name="worker", pid=pid, start_ticks=identify(pid).start_ticks)
        _wait_for((tmp_path / "ready").exists)
        parent.send_signal(signal.SIGKILL)
    _wait_for(log.exists)
    os.kill(pid, signal.SIGTERM)  # as from another thread of the parent

    await_leftovers([left], stops)

    _wait_for(lambda: not any(is_running(identify(one)) for one in _session(pid)))
    assert log.read_text() == said
