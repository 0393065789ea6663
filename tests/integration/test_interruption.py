"""A simulation killed with SIGKILL anywhere, and started again, ends with the same bits."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from configs.study import Study
from tasks.federated.simulation import simulate
from tasks.runtime.job import run_job
from tasks.runtime.journal import read_journal
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
ROUNDS = 160
ONE_OVERFLOWS: dict[str, object] = {
    "model": {"name": "quadratic", "centres": [1.0, 2.0, 3.0], "curvatures": [1.0, 1e9, 1.0]},
    "workers": 3,
    "local_steps": {"kind": "constant", "steps": 50},  # each multiplies by 1e8
    "dtype": "float64",
    "algorithm": {"name": "afa_cd", "collect": 3},
    "arrivals": "synchronous",
}
EXPERIMENTS: dict[str, dict[str, object]] = {
    "memory, delays": {
        "data": "digits",
        "workers": 50,
        "algorithm": {"name": "afa_cs", "server": "adam"},
        "arrivals": {"kind": "uniform", "max_delay": 7},
        "local_steps": {"kind": "uniform", "low": 1, "high": 5},
    },
    "event-driven, scaffold": {
        "data": "digits",
        "workers": 30,
        "algorithm": {"name": "afa_cd", "collect": 3},
        "worker": "scaffold",
        "arrivals": "event_driven",
        "service": {"law": "lognormal", "spread": 1.0},
        "record_trace": True,
    },
    "markov, calibrated": {
        "data": "digits",
        "workers": 30,
        "algorithm": {"name": "ca2fl", "collect": 5},
        "arrivals": {"kind": "markov", "max_delay": 3},
    },
    "refused returns": ONE_OVERFLOWS,
}


def prepare(path: Path, experiment: dict[str, object]) -> RunDirectory:
    """Make a run directory with its ``job.json``."""
    raw = {"rounds": ROUNDS, "evaluate_every": 3, "checkpoint_every": 7, **experiment}
    (point,) = Study.model_validate({"name": "x", "experiment": raw}).points()
    path.mkdir()
    directory = RunDirectory(path)
    job = JobFile(
        study="x", point=point.label, config_hash=point.config_hash, experiment=point.experiment
    )
    directory.job.write_text(job.model_dump_json())
    return directory


def run_forked(directory: RunDirectory, kill_after_s: float | None) -> bool:
    """Run the job in a forked process (torch is loaded already); True if it came to its end."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(run_job(directory.job, simulate))
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def what_counts(directory: RunDirectory) -> tuple[bytes, bytes, list[object]]:
    """Everything that must not depend on interruptions: all but wall-clock times."""
    lines: list[object] = []
    for line, _ in read_journal(directory.journal):
        metrics = {k: v for k, v in line.metrics.items() if k != "time/wall_s"}
        lines.append((line.sequence, line.step, metrics))
    trace = directory.trace.read_bytes() if directory.trace.exists() else b""
    return directory.model.read_bytes(), trace, lines


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_killed_anywhere_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Model, trace and journal of a run killed a dozen times equal an undisturbed run's."""
    undisturbed = prepare(tmp_path / "undisturbed", EXPERIMENTS[name])
    began = time.monotonic()
    assert run_forked(undisturbed, None)
    duration = time.monotonic() - began
    rng = random.Random(1)
    for attempt in range(5):  # on a machine whose speed changes kills come too late at times
        killed = prepare(tmp_path / f"killed-{attempt}", EXPERIMENTS[name])
        delays_s = [rng.uniform(0, 0.25) * duration for _ in range(12)]
        ends = [run_forked(killed, delay_s) for delay_s in delays_s]
        assert run_forked(killed, None)
        assert what_counts(killed) == what_counts(undisturbed)
        if ends.count(False) >= 4:
            break

    assert ends.count(False) >= 4
    result = killed.read_result()
    expected = undisturbed.read_result()
    assert result is not None
    assert expected is not None
    assert result.steps == ROUNDS
    assert (result.warnings, result.refused) == (expected.warnings, expected.refused)
    assert not list(killed.path.rglob(".*.safetensors.*"))


@pytest.mark.parametrize("max_delay", [None, 6], ids=["all", "late ones dropped"])
def test_a_recorded_trace_replays_to_the_same_model(tmp_path: Path, max_delay: int | None) -> None:
    """The trace of an event-driven run, as arrivals of another, gives the same model bits."""
    settings = EXPERIMENTS["event-driven, scaffold"] | {
        "arrivals": {"kind": "event_driven", "max_delay": max_delay}
    }
    recorded = prepare(tmp_path / "recorded", settings)
    assert run_forked(recorded, None)
    arrivals = {"kind": "trace", "path": str(recorded.trace)}
    replayed = prepare(tmp_path / "replayed", settings | {"arrivals": arrivals})

    assert run_forked(replayed, None)

    assert replayed.model.read_bytes() == recorded.model.read_bytes()
    assert replayed.trace.read_bytes() == recorded.trace.read_bytes()


def _start(directory: RunDirectory, file_limit: int | None = None) -> subprocess.Popen[str]:
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, "-m", "tasks.federated.simulate_job", str(directory.job)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_asked_to_stop_it_stops_soon_and_goes_on_later(tmp_path: Path) -> None:
    """SIGTERM ends a job within seconds, as interrupted; the next start finishes it."""
    experiment = EXPERIMENTS["memory, delays"] | {"rounds": 500}
    directory = prepare(tmp_path / "run", experiment)
    job = _start(directory)
    while not list(directory.checkpoints.glob("round-*")):
        assert job.poll() is None
        time.sleep(0.05)

    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=10)

    stopped = directory.read_result()
    assert job.returncode == 143
    assert stopped is not None
    assert stopped.status == "interrupted"
    assert run_forked(directory, None)
    finished = directory.read_result()
    assert finished is not None
    assert (finished.status, finished.steps) == ("finished", 500)


@pytest.mark.parametrize(
    ("extra", "file_limit"),
    [({}, 8_000), pytest.param({"rounds": 3}, 2_000, marks=pytest.mark.slow)],
    ids=["checkpoint or journal", "final model"],
)
def test_a_full_disk_fails_with_that_reason_and_resumes(
    tmp_path: Path, extra: dict[str, object], file_limit: int
) -> None:
    """When files can grow no more the run says so; with room again it ends as if undisturbed."""
    experiment = EXPERIMENTS["memory, delays"] | extra
    undisturbed = prepare(tmp_path / "undisturbed", experiment)
    assert run_forked(undisturbed, None)
    directory = prepare(tmp_path / "run", experiment)

    _, complaint = _start(directory, file_limit=file_limit).communicate(timeout=60)

    failed = directory.read_result()
    assert failed is not None
    assert (failed.status, failed.reason) == ("failed", "storage")
    assert "free some" in complaint
    assert "Traceback" not in complaint
    assert run_forked(directory, None)
    assert what_counts(directory) == what_counts(undisturbed)


def test_a_worker_whose_returns_are_not_finite_is_named(tmp_path: Path) -> None:
    """One worker with an enormous curvature overflows; the model stays finite without it."""
    directory = prepare(tmp_path / "run", ONE_OVERFLOWS)

    assert run_forked(directory, None)

    result = directory.read_result()
    assert result is not None
    assert result.refused == {"1": ROUNDS}
    assert any("return of worker 1 refused" in warning for warning in result.warnings)
    *_, (last, _) = read_journal(directory.journal)
    assert last.metrics["returns/refused"] == ROUNDS
    assert "train/loss" in last.metrics


@pytest.mark.parametrize(
    ("server_lr", "steps", "advice"),
    [(1e9, 1, "lower algorithm.server_lr"), (1.0, 100, "lower worker.lr")],
    ids=["model overflows", "no return is finite"],
)
def test_a_training_that_diverges_ends_with_a_reason(
    tmp_path: Path, server_lr: float, steps: int, advice: str
) -> None:
    """When nothing finite comes any more, the run stops instead of burning hours."""
    experiment: dict[str, object] = {
        "model": {"name": "quadratic", "centres": [1.0, 2.0], "curvatures": 1e6},
        "workers": 2,
        "dtype": "float64",
        "algorithm": {"name": "afa_cd", "collect": 2, "server_lr": server_lr},
        "worker": {"optimizer": "sgd", "lr": 1.0},
        "local_steps": {"kind": "constant", "steps": steps},
    }
    directory = prepare(tmp_path / "run", experiment)

    assert not run_forked(directory, None)

    result = directory.read_result()
    assert result is not None
    assert (result.status, result.reason) == ("failed", "diverged")
    assert advice in result.message
    assert result.steps > 0
