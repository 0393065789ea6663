"""The lock that makes one process the leader; with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.slurm.commands import run_command
from tasks.slurm.leader import Leadership

LEAD = """
import sys, time
from functools import partial
from pathlib import Path
from tasks.slurm.commands import run_command
from tasks.slurm.leader import Leadership

leadership = Leadership(Path(sys.argv[1]))
print(leadership.acquire(), flush=True)
if len(sys.argv) > 2:
    run_command(["sh", "-c", sys.argv[2]], 60, inherited=leadership.descriptors)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the lock is."""
    return tmp_path / "leader.lock"


def _lead(path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a process that leads, and wait until it does."""
    command = [sys.executable, "-c", LEAD, str(path), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def _kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def _until(condition: Callable[[], object]) -> None:
    """Wait for a condition; 20 s are more than any needs."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < 20, "it did not come to that"
        time.sleep(0.02)


def test_there_is_one_leader(path: Path) -> None:
    """Of two that ask, the first leads; once it resigns, the other one may."""
    first, second = Leadership(path), Leadership(path)

    answers = [first.acquire(), second.acquire(), first.acquire()]
    first.release()

    assert answers == [True, False, True]
    assert second.acquire()
    assert not first.acquire()


def test_a_killed_leader_leads_no_more(path: Path) -> None:
    """The lock goes with its process, and nobody has to clean up."""
    process = _lead(path)
    successor = Leadership(path)
    assert not successor.acquire()

    _kill(process)

    assert successor.acquire()


def test_a_command_of_a_killed_leader_is_waited_for(path: Path) -> None:
    """While an sbatch is on its way nobody else leads, though who started it is dead."""
    begun, answered = path.with_name("begun"), path.with_name("answered")
    # It ends when it is told to, or, should the test fail, after a minute.
    wait = f"for _ in $(seq 1200); do [ -e '{answered}' ] && exit; sleep 0.05; done"
    process = _lead(path, f"touch '{begun}'; {wait}")
    _until(begun.exists)
    successor = Leadership(path)

    _kill(process)
    is_early = successor.acquire()
    answered.touch()
    _until(successor.acquire)

    assert not is_early


def test_a_resigned_leader_does_not_wait_for_its_commands(path: Path) -> None:
    """Who resigns has had its answers; what else has inherited the lock does not keep it."""
    leadership = Leadership(path)
    leadership.acquire()
    inherited = os.dup(leadership.descriptors[0])

    leadership.release()

    assert Leadership(path).acquire()
    os.close(inherited)


def test_a_leader_on_another_host_is_believed(path: Path) -> None:
    """Where locks do not reach another host, its fresh stamp does."""
    path.write_text(json.dumps({"host": "login2", "pid": 1}))
    here = Leadership(path, host="login1")

    is_leader = here.acquire()
    os.utime(path, (time.time() - 300, time.time() - 300))

    assert not is_leader
    assert here.acquire()


def test_a_leader_that_has_died_on_this_host_is_not_waited_for(path: Path) -> None:
    """On one host the lock is enough, whatever the stamp says."""
    path.write_text(json.dumps({"host": "login1", "pid": 1}))

    assert Leadership(path, host="login1").acquire()


def test_a_stopped_leader_is_named(path: Path) -> None:
    """A process that leads and does nothing can be told to the user."""
    process = _lead(path)
    follower = Leadership(path)

    os.kill(process.pid, signal.SIGSTOP)
    early = follower.stuck_holder()
    os.utime(path, (time.time() - 300, time.time() - 300))
    late = follower.stuck_holder()

    assert early == ""
    assert late.startswith(f"process {process.pid} on ")
    _kill(process)


def test_commands_inherit_nothing_else(path: Path) -> None:
    """A command gets the lock, and no other file of ours."""
    leadership = Leadership(path)
    leadership.acquire()
    with path.open() as other:
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003  positional only

        answer = run_command(["ls", "/proc/self/fd"], 10, inherited=leadership.descriptors)

    numbers = {int(word) for word in answer.stdout.split()}
    assert leadership.descriptors[0] in numbers
    assert other.closed
    assert len(numbers - {0, 1, 2, leadership.descriptors[0]}) == 1  # the listed directory itself
