"""The keeper of a server: nothing is left behind, however either ends. Real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.services.notes import read_notes
from tasks.services.processes import descendants, identify, is_running

_START_S = 10.0
Keep = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc and prctl are Linux's"
)


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Return what starts a keeper for a shell script; all are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tasks.services.keeper", "--parent", str(os.getpid())]
        process = subprocess.Popen(
            [*command, *options, "--", "bash", "-c", script], start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_S
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)])
def test_the_exit_code_is_that_of_the_server(keep: Keep, script: str, code: int) -> None:
    """A server that ends is told from one that was stopped."""
    assert keep(script).wait(_START_S) == code


def test_a_command_that_is_not_there_is_told() -> None:
    """As a shell does it: 127, and a line."""
    command = [sys.executable, "-m", "tasks.services.keeper", "--parent", str(os.getpid())]

    ended = subprocess.run([*command, "/no/such"], capture_output=True, text=True, check=False)

    assert ended.returncode == 127
    assert ended.stderr == "cannot run /no/such: No such file or directory\n"


def test_stopped_it_leaves_no_process_of_the_server(keep: Keep, tmp_path: Path) -> None:
    """Children that the server does not care for, and a server that does not obey, are killed."""
    ready = tmp_path / "ready"
    keeper = keep(f"trap '' TERM; sleep 60 & touch {ready}; wait; sleep 60", "--grace-s", "0.5")
    _wait_for(ready.exists)
    born = [identify(pid) for pid in descendants(keeper.pid)]

    keeper.send_signal(signal.SIGTERM)

    assert keeper.wait(_START_S) == 137
    assert len(born) >= 2
    _wait_for(lambda: not any(map(is_running, born)))


@pytest.mark.parametrize(
    ("asked", "told"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")]
)
def test_flow_runs_are_ended_before_the_worker_is_stopped(
    keep: Keep, tmp_path: Path, asked: signal.Signals, told: str
) -> None:
    """Each gets one signal, in a session of its own even, and the time that it needs.

    Ctrl-C cancels it, all else hands it over: then it is noted before it ends.
    """
    log = tmp_path / "log"
    flow = tmp_path / "the_flow.py"  # bash lets what it starts with & ignore SIGINT
    flow.write_text(f"""
import pathlib, signal, time
log = pathlib.Path("{log}")
def stop(signum, _):
    noted = " ".join(path.stem for path in pathlib.Path("{tmp_path}").glob("notes/*"))
    log.write_text(f"flow gets {{signal.Signals(signum).name}} {{noted}}\\n")
    time.sleep(1)
    with log.open("a") as file:
        file.write("flow ended\\n")
    raise SystemExit
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("{tmp_path}/ready").touch()
while True:
    time.sleep(0.1)
""")
    worker = f"trap 'echo worker stopped >> {log}; exit 0' TERM\n"
    worker += f"PREFECT__FLOW_RUN_ID=abc setsid {sys.executable} {flow} &\n"
    options = ("--first", "the_flow.py", "--first", "none", "--notes", str(tmp_path / "notes"))
    keeper = keep(f"{worker}while true; do sleep 0.1; done", *options)
    _wait_for((tmp_path / "ready").exists)

    keeper.send_signal(asked)

    assert keeper.wait(_START_S) == 0
    noted = "" if asked is signal.SIGINT else "abc"
    gets, *rest = log.read_text().splitlines()
    assert gets == f"flow gets {told} {noted}"
    assert rest == ["flow ended", "worker stopped"]


def test_a_worker_that_dies_hands_its_flow_runs_over(keep: Keep, tmp_path: Path) -> None:
    """Nobody has cancelled anything; its successor goes on with them."""
    flow = tmp_path / "the_flow.py"
    flow.write_text(f"""
import pathlib, signal, time
def stop(*_):
    pathlib.Path("{tmp_path}/ended").touch()
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
pathlib.Path("{tmp_path}/ready").touch()
while True:
    time.sleep(0.1)
""")
    worker = f"PREFECT__FLOW_RUN_ID=abc setsid {sys.executable} {flow} &\n"
    worker += f"while [ ! -e {tmp_path}/ready ]; do sleep 0.1; done; kill -9 $$"
    keeper = keep(worker, "--first", "the_flow.py", "--notes", str(tmp_path / "notes"))

    assert keeper.wait(_START_S) == 137
    assert (tmp_path / "ended").exists()
    assert read_notes(tmp_path / "notes")["abc"].left_at


def test_a_second_stop_ends_the_patience(keep: Keep, tmp_path: Path) -> None:
    """A flow run that does not end is killed, when a person insists."""
    flow = tmp_path / "the_flow.sh"
    flow.write_text(f"trap '' INT TERM\ntouch {tmp_path}/ready\nwhile true; do sleep 0.1; done\n")
    keeper = keep(f"bash {flow} & while true; do sleep 0.1; done", "--first", "the_flow.sh")
    _wait_for((tmp_path / "ready").exists)
    born = [identify(pid) for pid in descendants(keeper.pid)]

    keeper.send_signal(signal.SIGTERM)
    time.sleep(1)
    is_patient = keeper.poll() is None
    keeper.send_signal(signal.SIGTERM)
    keeper.wait(_START_S)

    assert is_patient
    _wait_for(lambda: not any(map(is_running, born)))


def test_killed_with_kill_9_its_parent_takes_all_along(tmp_path: Path) -> None:
    """The keeper notices that `up` is gone, and stops the server; a worker's keeper first."""
    log = tmp_path / "log"
    starter = tmp_path / "starter.py"
    starter.write_text(f"""
import os, subprocess, sys, time
def keep(name, *options):
    script = "trap 'sleep 1; echo " + name + " >> {log}; exit' TERM; touch {tmp_path}/" + name
    command = [sys.executable, "-m", "tasks.services.keeper", "--parent", str(os.getpid())]
    subprocess.Popen([*command, *options, "--", "bash", "-c",
                      script + "; while true; do sleep 0.1; done"], start_new_session=True)
keep("server", "--grace-s", "5")
keep("worker", "--grace-s", "5", "--first", "nothing like this")
time.sleep(60)
""")
    with subprocess.Popen([sys.executable, str(starter)]) as parent:
        _wait_for(lambda: (tmp_path / "server").exists() and (tmp_path / "worker").exists())
        born = [identify(pid) for pid in descendants(parent.pid)]
        parent.kill()

    _wait_for(lambda: not any(map(is_running, born)))
    assert log.read_text().split() == ["worker", "server"]


def test_a_keeper_whose_parent_is_gone_already_starts_nothing(tmp_path: Path) -> None:
    """It would be left for ever."""
    command = [sys.executable, "-m", "tasks.services.keeper", "--parent", "1"]

    ended = subprocess.run([*command, "touch", str(tmp_path / "touched")], check=False)

    assert ended.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "touched").exists()
