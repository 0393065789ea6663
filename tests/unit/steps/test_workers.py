"""Workers of servers: submitted, renewed and sent home, by one thread for many servers."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.slurm.background import ReconcilerStopped
from tasks.slurm.launcher import JobId, JobState
from tasks.slurm.plan import JobPlan
from tasks.steps import workers as module
from tasks.steps.workers import Workers, tend
from tests.fakes.launcher import ListedLauncher

WAITING, RUNNING, FINISHED = JobState.WAITING, JobState.RUNNING, JobState.FINISHED
SERVER = JobId("server")


def _plans(server: str = "server", num_workers: int = 2) -> list[JobPlan]:
    return [
        JobPlan(name=f"worker {number}", module="a.b", run_dir=Path(f"/{server}/{number}"))
        for number in range(num_workers)
    ]


def test_workers_are_submitted_when_the_server_runs_and_again_when_it_comes_back() -> None:
    """Not while it waits for its node; after a preemption only those that have ended."""
    launcher = ListedLauncher({SERVER: WAITING})
    workers = Workers(launcher, SERVER, _plans())
    first, second = workers.jobs.values()
    seen = []

    for state in (WAITING, RUNNING, RUNNING, WAITING, RUNNING):
        launcher.states[SERVER] = state
        workers.look(0.0)
        seen.append((launcher.submissions[first], launcher.submissions[second]))
        if len(seen) == 3:
            launcher.states[first] = FINISHED

    assert seen == [(0, 0), (1, 1), (1, 1), (1, 1), (2, 1)]
    assert not workers.over.is_set()


def test_a_server_without_workers_is_cancelled_but_not_one_that_ends() -> None:
    """It has 20 s to end by itself, as one that has sent them home does."""
    launcher = ListedLauncher({SERVER: RUNNING})
    workers = Workers(launcher, SERVER, _plans())
    workers.look(0.0)
    launcher.states |= dict.fromkeys(workers.jobs.values(), FINISHED)

    workers.look(100.0)
    workers.look(119.0)
    before = list(launcher.cancelled)
    workers.look(120.0)

    assert before == []
    assert launcher.cancelled == [SERVER]
    assert workers.over.is_set()
    assert workers.fault.startswith("all workers have ended before the server")


def test_workers_that_do_not_go_home_are_cancelled() -> None:
    """Those that are left 20 s after the server has ended, once; they have as long to stop."""
    launcher = ListedLauncher({SERVER: RUNNING})
    workers = Workers(launcher, SERVER, _plans())
    workers.look(0.0)
    polite, rude = workers.jobs.values()
    launcher.states |= {SERVER: FINISHED, polite: FINISHED}

    cancelled = []
    for now_s in (10.0, 29.0, 30.0, 31.0):
        workers.look(now_s)
        cancelled.append(list(launcher.cancelled))
    was_over = workers.over.is_set()
    workers.look(50.0)

    assert cancelled == [[], [], [rude], [rude]]
    assert not was_over
    assert workers.over.is_set()
    assert (workers.fault, workers.told()) == ("", "1 running, 1 finished")


def test_the_workers_of_a_server_that_never_ran_are_not_waited_for() -> None:
    """They count as waiting."""
    workers = Workers(ListedLauncher({SERVER: JobState.INTERRUPTED}), SERVER, _plans())

    workers.look(0.0)

    assert workers.over.is_set()
    assert workers.told() == "2 waiting"


def test_one_thread_looks_after_the_workers_of_forty_servers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nobody follows a point; what fails is tried again, and told once."""
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    servers = [JobId(f"server {number}") for number in range(40)]
    launcher = ListedLauncher(dict.fromkeys(servers, RUNNING))
    launcher.faults = [OSError("the disk is full")] * 100
    everybody = [Workers(launcher, server, _plans(server)) for server in servers]
    logger = logging.getLogger("flow")

    with caplog.at_level(logging.INFO, logger="flow"):
        thread = tend(everybody, logger)
        _until(lambda: len(launcher.submissions) == 80)
        launcher.states |= dict.fromkeys([*launcher.submissions, *servers], FINISHED)
        thread.join(10.0)

    assert not thread.is_alive()
    assert {workers.told() for workers in everybody} == {"2 finished"}
    assert set(launcher.submissions.values()) == {1}
    assert len(caplog.records) == 1
    assert "the disk is full; it is tried again" in caplog.text


def test_what_ends_one_servers_workers_ends_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for workers whose jobs nobody follows any more, or that a bug has hit."""
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    launcher = ListedLauncher({JobId("a"): RUNNING, JobId("b"): RUNNING, JobId("c"): RUNNING})
    launcher.faults = [ValueError("a bug"), ReconcilerStopped("not followed any more")]
    everybody = [Workers(launcher, JobId(name), _plans(name)) for name in "abc"]

    thread = tend(everybody, logging.getLogger("flow"))
    first, second, third = everybody
    _until(lambda: len(launcher.submissions) == 2)
    launcher.states |= dict.fromkeys(launcher.states, FINISHED)
    thread.join(10.0)

    assert first.fault == "not followed any more"
    assert second.fault == "workers are not looked after any more: ValueError('a bug')"
    assert (third.fault, third.told()) == ("", "2 finished")


def _until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
