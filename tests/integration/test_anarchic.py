"""Real processes: a server and workers that are killed, preempted, cut off, and come back."""

import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.study import Study
from tasks.federated.client import work
from tasks.federated.problem import build_problem
from tasks.federated.serving import serve
from tasks.federated.simulation import simulate
from tasks.runtime.clients import make_client_directories
from tasks.runtime.job import run_job
from tasks.runtime.records import JobFile, Result, ReturnLine
from tasks.runtime.returns import read_returns
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool
from tests.integration.wrapped import ROOT, finish, start, until

WORKERS, COLLECT = 4, 3
EXPERIMENT: dict[str, object] = {
    "data": {"name": "digits", "partition": "iid"},
    "workers": WORKERS,
    "rounds": 120,
    "evaluate_every": 10,
    "checkpoint_every": 12,
    "dtype": "float64",
    "arrivals": {
        "kind": "slurm",
        "partitions": [
            {"partition": "batch", "workers": 2},
            {"partition": "preempt", "workers": 2},
        ],
        "budget_s": 0.02,
    },
}
WITH_MEMORY = {"algorithm": {"name": "afa_cs", "collect": COLLECT}}
WITH_LOCAL_MODELS = {
    "algorithm": {"name": "area", "collect": COLLECT, "server": "momentum", "server_lr": 0.5},
    "worker": {"optimizer": "momentum", "lr": 0.02},
}


def prepare(path: Path, **changes: object) -> RunDirectory:
    """Make a run directory with its ``job.json``."""
    raw = {"name": "x", "experiment": EXPERIMENT | changes, "launcher": "slurm"}
    (point,) = Study.model_validate(raw).points()
    path.mkdir()
    directory = RunDirectory(path)
    job = JobFile(
        study="x", point=point.label, config_hash=point.config_hash, experiment=point.experiment
    )
    directory.job.write_text(job.model_dump_json())
    return directory


def prepare_anarchic(path: Path, **changes: object) -> tuple[RunDirectory, list[RunDirectory]]:
    """Make the run directories of a server and of its workers."""
    server = prepare(path, **changes)
    by_partition = make_client_directories(server)
    return server, [RunDirectory(client) for clients in by_partition.values() for client in clients]


def model_of(directory: RunDirectory) -> torch.Tensor:
    """The final model."""
    return load_file(directory.model)["model"]


def replayed_model(server: RunDirectory, path: Path) -> torch.Tensor:
    """The model that the simulator makes of a run's trace."""
    experiment = server.read_job().experiment.model_dump(mode="json")
    replayed = prepare(
        path, **experiment | {"arrivals": {"kind": "trace", "path": str(server.trace)}}
    )
    assert run_job(replayed.job, simulate) == 0
    return model_of(replayed)


def assert_complete(server: RunDirectory, clients: list[RunDirectory], tmp_path: Path) -> None:
    """The run has finished, every return counted once, and the simulator agrees with it."""
    result = server.read_result()
    assert result is not None
    assert (result.status, result.refused) == ("finished", {})
    lines = [line for line, _ in read_returns(server.returns)]
    rounds = server.read_job().federated.rounds
    assert Counter(line.round for line in lines) == dict.fromkeys(range(1, rounds + 1), COLLECT)
    taken = {(line.worker, line.sequence) for line in lines}
    assert len(taken) == len(lines)
    spool = Spool(server)
    left = {(name.worker, name.sequence) for name in spool.names(spool.returns)}
    assert handed_in(clients) <= taken | left
    assert list(spool.refused.iterdir()) == []
    assert in_order(lines)
    # The workers computed one return at a time, the simulator three at once: products of batches
    # round differently. Everything else is the same arithmetic.
    torch.testing.assert_close(
        model_of(server), replayed_model(server, tmp_path / "replayed"), rtol=1e-12, atol=1e-14
    )


def num_taken(server: RunDirectory) -> int:
    """How many returns the server has taken."""
    return server.returns.read_bytes().count(b"\n") if server.returns.exists() else 0


def handed_in(clients: list[RunDirectory]) -> set[tuple[int, int]]:
    """What the workers say that they have handed in."""
    return {
        (int(client.path.name), int(sequence))
        for client in clients
        for sequence in re.findall(r"^return (\d+):", client.stdout.read_text(), re.MULTILINE)
    }


def in_order(lines: list[ReturnLine]) -> bool:
    """Whether time never runs back, nor the numbers of a worker."""
    latest = [-1] * WORKERS
    for line in lines:
        if line.sequence <= latest[line.worker]:
            return False
        latest[line.worker] = line.sequence
    times = [line.taken_at_s for line in lines]
    return times == sorted(times)


@dataclass
class Job:
    """A job that runs in a forked process, as torch is loaded already, and can be started again."""

    directory: RunDirectory
    engine: Callable[[RunDirectory], Result]
    child: int = 0
    codes: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Start it, or start it again."""
        self.child = os.fork()
        if self.child == 0:
            output = os.open(self.directory.stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
            torch.set_num_threads(1)
            os._exit(run_job(self.directory.job, self.engine))

    def has_ended(self) -> bool:
        """Whether it has; its exit code is kept."""
        if self.child:
            child, status = os.waitpid(self.child, os.WNOHANG)
            if child:
                self.codes.append(os.waitstatus_to_exitcode(status))
                self.child = 0
        return not self.child

    @property
    def has_finished(self) -> bool:
        """Whether it has come to its end."""
        return self.has_ended() and bool(self.codes) and self.codes[-1] == 0

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.child, signum)


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    """Jobs that are killed at the end of a test, whatever its end."""
    started: list[Job] = []
    yield started
    for job in started:
        if not job.has_ended():
            job.signal(signal.SIGKILL)
            os.waitpid(job.child, 0)


@pytest.mark.parametrize(
    "settings",
    [WITH_MEMORY, pytest.param(WITH_LOCAL_MODELS, marks=pytest.mark.slow)],
    ids=["afa_cs", "area"],
)
def test_killed_and_restarted_at_random_no_return_is_lost_or_counted_twice(
    settings: dict[str, object], tmp_path: Path, jobs: list[Job]
) -> None:
    """Server and workers die all the time; the run ends as its own trace says it must."""
    server_dir, client_dirs = prepare_anarchic(tmp_path / "run", **settings)
    build_problem(server_dir.read_job().federated)  # loaded once, for all the forks
    server = Job(server_dir, serve)
    clients = [Job(directory, work) for directory in client_dirs]
    jobs += [server, *clients]
    rng = random.Random(3)

    def goes_on(number: int) -> bool:
        """Start again who has ended; say whether so many returns were taken, or all."""
        for job in jobs:
            if job.has_ended() and not job.has_finished:
                job.start()
        return server.has_finished or num_taken(server_dir) >= number

    # By returns, not by time: on a machine that is busy, they come to something all the same.
    while not server.has_finished:
        until(partial(goes_on, num_taken(server_dir) + rng.randint(1, 20)), timeout_s=120)
        victim = rng.choice(jobs)
        if not victim.has_ended():
            victim.signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    for client in clients:
        until(client.has_ended)

    assert_complete(server_dir, client_dirs, tmp_path)
    # Killed, stopped in time (143), or stopped before the job had a say (-15).
    assert {code for job in jobs for code in job.codes} <= {
        0,
        143,
        -signal.SIGKILL,
        -signal.SIGTERM,
    }
    assert len(server.codes) >= 3
    assert sum(len(client.codes) for client in clients) >= 8


def start_module(name: str, directory: RunDirectory) -> "subprocess.Popen[bytes]":
    """Start a job as somebody would by hand."""
    with directory.stdout.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", f"tasks.federated.{name}", str(directory.job)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


@pytest.mark.slow
def test_by_hand_a_server_and_its_workers_do_a_run(tmp_path: Path) -> None:
    """As modules, with one worker preempted, one killed and the server killed in the middle."""
    server_dir, client_dirs = prepare_anarchic(
        tmp_path / "run", algorithm={"name": "afa_cd", "collect": COLLECT}
    )
    server = start_module("server_job", server_dir)
    clients = [start_module("client_job", directory) for directory in client_dirs]

    until(lambda: num_taken(server_dir) > 60, timeout_s=120)
    clients[0].send_signal(signal.SIGTERM)
    clients[1].kill()
    server.kill()
    preempted = clients[0].wait(timeout=30)
    server.wait()
    server = start_module("server_job", server_dir)
    clients[1] = start_module("client_job", client_dirs[1])
    code = server.wait(timeout=180)
    codes = [client.wait(timeout=60) for client in clients[1:]]

    assert preempted == 143
    assert code == 0, server_dir.stdout.read_text()
    assert codes == [0, 0, 0]
    assert_complete(server_dir, client_dirs, tmp_path)
    spool = Spool(server_dir)
    assert spool.versions() == []
    assert spool.names(spool.taken_by(0)) == []


@pytest.mark.slow
def test_a_server_that_was_cut_off_changes_nothing_when_it_comes_back(tmp_path: Path) -> None:
    """Two incarnations alive at once, and then of a worker, too: only the newer ones count."""
    server_dir, client_dirs = prepare_anarchic(tmp_path / "run", **WITH_MEMORY)
    module = [sys.executable, "-m", "tasks.federated"]

    def begin(directory: RunDirectory, restarts: int = 0) -> "subprocess.Popen[str]":
        engine = "server_job" if directory is server_dir else "client_job"
        command = [*module[:-1], f"{module[-1]}.{engine}"]
        return start(directory, command, restarts=restarts)

    old_server = begin(server_dir)
    old_worker, other_worker = (begin(directory) for directory in client_dirs[:2])
    until(lambda: num_taken(server_dir) > 60, timeout_s=120)
    cut_off = [pid for wrapper in (old_server, old_worker) for pid in family(wrapper.pid)]
    for pid in cut_off:
        os.kill(pid, signal.SIGSTOP)

    new_server = begin(server_dir, restarts=1)
    new_worker = begin(client_dirs[0], restarts=1)
    before = num_taken(server_dir)
    until(lambda: num_taken(server_dir) > before + 30, timeout_s=120)
    for pid in cut_off:
        os.kill(pid, signal.SIGCONT)

    assert finish(old_server)[0] == 75
    assert finish(old_worker)[0] == 75
    code, said = finish(new_server)
    assert code == 0, said + server_dir.stdout.read_text()
    assert [finish(wrapper)[0] for wrapper in (new_worker, other_worker)] == [0, 0]
    assert_complete(server_dir, client_dirs[:2], tmp_path)


def family(wrapper: int) -> list[int]:
    """A wrapper and its children, which are the jobs."""
    children = Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()
    return [wrapper, *map(int, children)]
