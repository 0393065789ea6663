"""The commands of the fake Slurm as programs, its jobs as processes, in real time."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tasks.slurm.commands import SlurmCli, run_command
from tasks.slurm.errors import SlurmUnreachable
from tasks.slurm.states import SlurmState
from tests.fakes.scripts import Size, write_script
from tests.fakes.served import FakeCluster
from tests.fakes.slurm import Faults

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a batch script with some options, in a directory of its own."""
    return partial(write_script, tmp_path)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """Serve a fake Slurm in real time, with its commands on PATH."""
    with FakeCluster(tmp_path, size=Size(num_nodes=2)) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        yield served


def until(happens: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def state(cli: SlurmCli, job: str) -> SlurmState:
    """Return the state of a job in the queue."""
    return next(each.state for each in cli.queue() if each.slurm_job == job)


def test_programs_run_real_scripts(write: Write, cluster: FakeCluster) -> None:
    """A script really runs, with Slurm's variables, and its exit code is its state."""
    cli = SlurmCli()
    task = "$SLURM_ARRAY_TASK_ID"
    body = f"echo $SLURM_ARRAY_JOB_ID {task} $SLURMD_NODENAME $PWD; exit {task}"
    script = write("ws-a-1", "--array=0-1", "--output=slurm-%a.out", body=body)

    job = cli.submit(script)
    until(lambda: all(each.state.is_final for each in cli.queue()))

    assert state(cli, f"{job}_0") is SlurmState.COMPLETED
    assert state(cli, f"{job}_1") is SlurmState.FAILED
    directory = script.parent
    assert (directory / "slurm-1.out").read_text() == f"{job} 1 node01 {directory}\n"
    assert [call.command for call in cluster.calls()][:2] == ["sbatch", "squeue"]


@pytest.mark.usefixtures("cluster")
def test_a_script_is_kept_as_it_was_submitted(write: Write) -> None:
    """What is written into the script later does not change the job."""
    cli = SlurmCli()
    script = write("ws-a-1", "--hold", "--output=out", body="echo old")

    job = cli.submit(script)
    script.write_text(script.read_text().replace("old", "changed"))
    run_command(["scontrol", "release", job], 10.0)
    until(lambda: state(cli, job).is_final)

    assert (script.parent / "out").read_text() == "old\n"


@pytest.mark.usefixtures("cluster")
def test_a_cancelled_program_dies_with_all_its_processes(write: Write) -> None:
    """TERM reaches the script; what outlives it in a session of its own is killed."""
    cli = SlurmCli()
    body = (
        "trap 'echo asked > asked; exit 143' TERM; setsid bash -c 'trap : TERM; echo $$ > child; "
        "while :; do sleep 0.1; done' & while :; do sleep 0.1; done"
    )
    script = write("ws-a-1", "--output=out", body=body)
    job = cli.submit(script)
    child = script.parent / "child"
    until(lambda: child.exists() and child.read_text() != "")

    cli.cancel([job])
    until(lambda: state(cli, job) is SlurmState.CANCELLED)

    assert (script.parent / "asked").exists()
    until(lambda: not Path(f"/proc/{child.read_text().strip()}").exists())


@pytest.mark.usefixtures("cluster")
def test_a_program_may_ask_to_be_queued_again(write: Write) -> None:
    """A warned script calls scontrol requeue, and runs again with its restarts counted."""
    cli = SlurmCli()
    body = (
        'echo "run ${SLURM_RESTART_COUNT:-0}"; [ -z "$SLURM_RESTART_COUNT" ] || exit 0; '
        "trap 'scontrol requeue $SLURM_JOB_ID; sleep 60' USR1; while :; do sleep 0.1; done"
    )
    script = write("ws-a-1", "--time=0:10", "--signal=B:USR1@6", "--output=out", body=body)

    job = cli.submit(script)
    until(lambda: any(each.state is SlurmState.PENDING for each in cli.queue()))
    cli.start_now(job)
    until(lambda: state(cli, job) is SlurmState.COMPLETED)

    assert (script.parent / "out").read_text() == "run 0\nrun 1\n"


def test_a_node_of_programs_can_be_cut_off_or_die(write: Write, cluster: FakeCluster) -> None:
    """Programs of a node that is cut off run on until it is back; of a dead one they are gone."""
    cli = SlurmCli()
    script = write("ws-a-1", "--output=out", body="echo $$ >> pids; sleep 60")
    pids = script.parent / "pids"
    job = cli.submit(script)
    until(lambda: pids.exists() and pids.read_text() != "")

    cluster.cut_node("node01")
    until(lambda: state(cli, job) is SlurmState.PENDING)
    cli.start_now(job)
    until(lambda: len(pids.read_text().split()) == 2)
    old, new = (Path(f"/proc/{pid}") for pid in pids.read_text().split())
    both = old.exists() and new.exists()
    cluster.revive_node("node01")
    until(lambda: not old.exists())
    is_left = new.exists()
    cluster.fail_node("node02")

    assert both
    assert is_left
    until(lambda: not new.exists())


def test_a_program_may_never_hear_of_its_job(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An sbatch that is not answered hangs until its time is over; the job is there."""
    script = write()
    with FakeCluster(tmp_path, faults=Faults(accept_then_timeout=1.0)) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)

        with pytest.raises(TimeoutError, match="sbatch has not answered"):
            run_command(["sbatch", "--parsable", f"--chdir={script.parent}", str(script)], 0.5)

        assert [each.name for each in SlurmCli().queue()] == ["ws-a-1"]


def test_without_a_server_there_is_no_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server is gone, the commands say what those of a dead controller say."""
    monkeypatch.setenv("PATH", f"{Path(__file__).parents[2]}/fakes/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/socket")

    with pytest.raises(SlurmUnreachable, match="Unable to contact slurm controller"):
        SlurmCli().queue()


def test_programs_start_fast(cluster: FakeCluster) -> None:
    """A command costs little more than the start of a bare interpreter."""
    environment = os.environ | dict(cluster.environment)
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN)

    for _ in range(20):
        subprocess.run(["scontrol", "ping"], check=True, stdout=subprocess.DEVNULL, env=environment)

    after_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after_s.ru_utime + after_s.ru_stime - before_s.ru_utime - before_s.ru_stime
    assert used_s / 20 < 0.1  # 0.02 s here
