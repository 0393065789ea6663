"""What a plan writes is a training that runs: planned, checked and run, with ranks of this host."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loading import load_study
from configs.training import TrainingExperiment
from tasks.tracking.study_directory import StudyDirectory

WATERSHED = Path(sys.executable).with_name("watershed")
_NUM_STEPS = 3
MACHINE: dict[str, Any] = {
    "levels": [
        {"name": "package", "ranks": 2, "link": {"gb_per_s": 2.0, "latency_us": 50.0}},
        {"name": "node", "ranks": 4, "link": {"gb_per_s": 0.2, "latency_us": 50.0}},
    ],
    "network": {"gb_per_s": 0.1, "shared_by": 4, "latency_us": 100.0},
    "device": {
        "memory_bytes": 10**9,
        "memory_gb_per_s": 5.0,
        "rates": {"float32": [{"gflops": 0.01, "tflops": 0.02}]},
    },
}
"""The pretend machine, as `watershed calibrate mini` would write it for some computer."""


def _watershed(directory: Path, *arguments: str) -> str:
    """Run a command as a person would; return what it printed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_"))
    }
    ended = subprocess.run(
        [WATERSHED, *arguments],
        cwd=directory,
        env=environment | {"HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_a_planned_training_runs_as_it_is_written(tmp_path: Path) -> None:
    """Four ranks train with the plan's partition, formats and batch; only the steps are cut."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MACHINE))
    path = tmp_path / "planned.yaml"

    _watershed(
        tmp_path,
        *("plan-training", "--model", "gpt-1m", "--topology", "./mine.yaml", "--devices", "4"),
        *("--batch-tokens", "1024", "--sequence", "64", "--dtype", "float32"),
        *("--write", str(path)),
    )
    _watershed(tmp_path, "check", str(path))
    shorter = ("--set", f"steps={_NUM_STEPS}", "--set", "optimizer.warmup_steps=1")
    told = _watershed(tmp_path, "run", str(path), *shorter)

    (study_dir,) = tmp_path.glob("runs/planned-*")
    (run,) = StudyDirectory(study_dir).points()
    (point,) = load_study(path).points()
    planned, ran, result = point.experiment, run.read_job().training, run.read_result()
    assert f"finished     base: train step {_NUM_STEPS}" in told
    assert isinstance(planned, TrainingExperiment)
    assert ran.model_copy(update={"steps": 100, "optimizer": planned.optimizer}) == planned
    assert (ran.ranks, ran.tokens_per_step) == (4, 1024)
    assert result is not None
    assert (result.status, result.steps) == ("finished", _NUM_STEPS)
    assert 0 < result.metrics["train/loss"] < 10  # ln 256 = 5.5 at first
