"""Engines that meet their time limit: Slurm's signal, a checkpoint, the queue, the same bits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.launchers import SlurmResources
from configs.study import Study
from tasks.runtime.journal import read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import Exit, JobFile, Started
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobState
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.cluster.launching import ROOT, SINGLE, ended, until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.test_training import MACHINE, rank_pid
from tests.integration.test_training_job import num_lines, prepare, run, what_counts

pytestmark = pytest.mark.slow

SIGNAL_BEFORE_S = 30
"""Slurm may send its signal 30 s early: from a minute before the limit on, and in time for us."""
_SIMULATION_MIN, _TRAINING_MIN = 2, 4
"""Limits: the engine is at work and has saved a minute before, also on a busy machine."""

ROUNDS = 20_000
SIMULATION: dict[str, object] = {
    "workers": 20,
    "rounds": ROUNDS,
    "evaluate_every": 500,
    "checkpoint_every": 500,
    "model": {"name": "quadratic", "centres": list(range(20)), "noise": 1.0},
    "algorithm": {"collect": 5, "server_lr": 0.5},
    "worker": {"lr": 0.01},
    "arrivals": {"kind": "uniform", "max_delay": 10},
    "dtype": "float64",
}
SAME = (Metric.TRAIN_LOSS, Metric.TRAIN_GRAD_NORM, Metric.DELAY_MEAN, Metric.SAMPLES_TOTAL)


def prepare_simulation(path: Path) -> RunDirectory:
    """Make the run directory of a simulation."""
    study = Study.model_validate({"name": "x", "experiment": SIMULATION})
    (point,) = study.points()
    path.mkdir(parents=True)
    directory = RunDirectory(path)
    job = JobFile(
        study="x", point=point.label, config_hash=point.config_hash, experiment=point.experiment
    )
    directory.job.write_text(job.model_dump_json())
    return directory


def losses(directory: RunDirectory) -> list[object]:
    """Return the lines of a simulation's journal, without its times."""
    return [
        (line.sequence, line.step, [line.metrics.get(name) for name in SAME])
        for line, _ in read_journal(directory.journal)
    ]


def submitted(
    launcher: SlurmLauncher,
    directory: RunDirectory,
    module: str,
    limit_min: int,
    **resources: object,
) -> Callable[[], JobState]:
    """Submit a job with a short limit; return what waits for its end."""
    asked = {"time_limit": str(limit_min), "signal_before_s": SIGNAL_BEFORE_S, **resources}
    plan = JobPlan(
        name=directory.path.name,
        module=module,
        run_dir=directory.path,
        resources=SlurmResources.model_validate(asked),
        code_dir=ROOT,
        python=sys.executable,
    )
    job = launcher.submit(plan)
    return lambda: ended(launcher, job, 400)


def started(directory: RunDirectory, attempt: int) -> Started:
    """Return who has claimed an attempt."""
    path = directory.attempt(attempt) / "started.json"
    return Started.model_validate_json(path.read_bytes())


def hold_over_the_signal(directory: RunDirectory, pid: int, limit_min: int) -> None:
    """Let a process of the first attempt do nothing until Slurm has signalled the job.

    So the limit is met whatever the speed of the machine.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        limit_s = started(directory, 1).timestamp_ms / 1000 + 60 * limit_min
        time.sleep(max(0.0, limit_s - SIGNAL_BEFORE_S + 10 - time.time()))
    finally:
        os.kill(pid, signal.SIGCONT)


def assert_went_over_the_limit(directory: RunDirectory) -> None:
    """The first attempt was warned, saved, and queued again; the second went on."""
    end = Exit.model_validate_json((directory.attempt(1) / "exit.json").read_bytes())
    assert end.signals == ("SIGUSR1",)
    assert (end.code, end.requeued, end.checkpoint_moved) == (143, True, True)
    first, second = started(directory, 1), started(directory, 2)
    assert (second.submission, second.restarts) == (1, 1)
    assert second.slurm_job == first.slurm_job


def test_a_simulation_that_meets_its_limit_ends_with_the_bits_of_one_that_does_not(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Slurm's signal, saved, queued again, continued: the same losses and the same model."""
    del in_cluster
    module = "tasks.federated.simulate_job"
    undisturbed = prepare_simulation(tmp_path / "undisturbed")
    command = [sys.executable, "-m", module, str(undisturbed.job)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    directory = prepare_simulation(tmp_path / "study" / "run")

    end = submitted(launch(SINGLE), directory, module, _SIMULATION_MIN)
    until(lambda: directory.checkpoints.is_dir() and list(directory.checkpoints.iterdir()), 55)
    hold_over_the_signal(directory, _engine_pid(directory, module), _SIMULATION_MIN)
    state = end()

    assert state is JobState.FINISHED
    assert_went_over_the_limit(directory)
    assert losses(directory) == losses(undisturbed)
    assert directory.model.read_bytes() == undisturbed.model.read_bytes()


def test_a_training_under_srun_that_meets_its_limit_ends_with_the_same_bits(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Four ranks on two nodes: all save together, and go on together."""
    del in_cluster
    undisturbed = prepare(tmp_path / "undisturbed", topology=MACHINE)
    assert run(undisturbed) == 0
    launcher = launch(SINGLE)
    directory = prepare(tmp_path / "study" / "run", topology=MACHINE)

    end = submitted(
        launcher,
        directory,
        "tasks.zero.train_job",
        _TRAINING_MIN,
        nodes=2,
        tasks_per_node=2,
        setup=(f"export WATERSHED_CACHE={tmp_path}/cache",),
    )
    until(lambda: num_lines(directory) >= 2, 170)
    pid = rank_pid(directory, 3)
    assert pid is not None
    hold_over_the_signal(directory, pid, _TRAINING_MIN)
    state = end()

    assert state is JobState.FINISHED
    assert_went_over_the_limit(directory)
    assert what_counts(directory) == what_counts(undisturbed)


def _engine_pid(directory: RunDirectory, module: str) -> int:
    """Return the process of the engine: what the wrapper of the first attempt has started."""
    wrapper = started(directory, 1).pid
    children = Path(f"/proc/{wrapper}/task/{wrapper}/children").read_text().split()
    (engine,) = (int(pid) for pid in children if module in Path(f"/proc/{pid}/cmdline").read_text())
    return engine
