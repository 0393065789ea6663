"""A simulation that is asked to stop finishes its round and saves: nothing is computed twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.runtime.run_directory import RunDirectory
from tests.integration.test_interruption import EXPERIMENTS, prepare, run_forked, what_counts
from tests.integration.wrapped import ROOT, finish, install_scontrol, read_exit, run, start, until

SIMULATE = [sys.executable, "-m", "tasks.federated.simulate_job"]
NEVER_BY_ITSELF: dict[str, object] = {"rounds": 200, "checkpoint_every": 1_000_000}
LONG_ROUND: dict[str, object] = {
    "data": "digits",
    "workers": 20,
    "algorithm": {"name": "afa_cd", "collect": 10},
    "local_steps": {"kind": "constant", "steps": 100_000},
}


def start_alone(directory: RunDirectory) -> "subprocess.Popen[bytes]":
    """Start a job without the wrapper, and wait until its rounds have begun."""
    job = subprocess.Popen(
        [*SIMULATE, str(directory.job)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: directory.journal.exists() and directory.journal.read_bytes().count(b"\n"), 60)
    return job


def saved_rounds(directory: RunDirectory) -> list[int]:
    """Rounds of the checkpoints."""
    return [int(path.stem.removeprefix("round-")) for path in directory.checkpoints.glob("round-*")]


def test_before_the_time_limit_it_saves_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Slurm's warning makes the one checkpoint; the next start continues from its very round."""
    experiment = EXPERIMENTS["event-driven, scaffold"] | NEVER_BY_ITSELF
    undisturbed = prepare(tmp_path / "undisturbed", experiment)
    assert run_forked(undisturbed, None)
    directory = prepare(tmp_path / "run", experiment)
    slurm = install_scontrol(tmp_path / "bin", directory)
    wrapper = start(directory, SIMULATE, requeue=True, environment=slurm)
    until(lambda: directory.journal.exists() and directory.journal.read_bytes().count(b"\n") > 2)

    wrapper.send_signal(signal.SIGUSR1)
    code, _ = finish(wrapper)
    (saved,) = saved_rounds(directory)
    assert run(directory, SIMULATE, restarts=1) == 0

    first = read_exit(directory, 1)
    assert (code, first.code, first.requeued, first.checkpoint_moved) == (143, 143, True, True)
    assert f"continues from round {saved}\n" in directory.stdout.read_text()
    assert what_counts(directory) == what_counts(undisturbed)


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_at_a_terminal_it_saves_and_ends_promptly(tmp_path: Path, signum: signal.Signals) -> None:
    """Without Slurm, too, the round is saved; who waits at the terminal waits a moment."""
    directory = prepare(tmp_path / "run", EXPERIMENTS["memory, delays"] | NEVER_BY_ITSELF)
    job = start_alone(directory)

    began = time.monotonic()
    job.send_signal(signum)
    code = job.wait(20)
    waited_s = time.monotonic() - began

    assert code == 143
    assert len(saved_rounds(directory)) == 1
    # 0.1 to 0.5 s when idle, most of it the interpreter's own end; the bound allows for load.
    assert waited_s < 5


def test_at_a_terminal_a_long_round_is_not_waited_for(tmp_path: Path) -> None:
    """A round that would take minutes is left in the middle, two seconds after the signal."""
    directory = prepare(tmp_path / "run", LONG_ROUND)
    job = start_alone(directory)

    began = time.monotonic()
    job.terminate()
    code = job.wait(20)

    result = directory.read_result()
    assert code == 143
    assert time.monotonic() - began < 8  # grace 2 s, the rest for a loaded machine
    assert saved_rounds(directory) == []
    assert result is not None
    assert result.status == "interrupted"


@pytest.mark.slow
def test_with_slurm_a_long_round_is_left_at_the_second_signal(tmp_path: Path) -> None:
    """Slurm decides how long saving may take; asked once more, the job ends at once."""
    directory = prepare(tmp_path / "run", LONG_ROUND)
    wrapper = start(directory, SIMULATE)
    until(lambda: directory.journal.exists() and directory.journal.read_bytes().count(b"\n"), 60)

    wrapper.terminate()
    time.sleep(3)
    after_the_first = wrapper.poll()
    wrapper.terminate()
    code, _ = finish(wrapper, 10)

    assert (after_the_first, code) == (None, 143)
    assert read_exit(directory).signals == ("SIGTERM", "SIGTERM")
    assert not read_exit(directory).checkpoint_moved
