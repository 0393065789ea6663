"""The shipped trial training from end to end: flow, eight ranks, progress, report."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tasks.tracking.study_directory import StudyDirectory

WATERSHED = Path(sys.executable).with_name("watershed")
CONFIGURATION = Path(__file__).parents[2] / "configs" / "runs" / "gpt-tiny.yaml"


@pytest.mark.slow
def test_the_trial_training_learns(tmp_path: Path) -> None:
    """Eight local ranks finish, the loss falls, and Prefect has the progress and the numbers."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_"))
    }

    ended = subprocess.run(
        [WATERSHED, "run", CONFIGURATION],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    (path,) = tmp_path.glob("runs/gpt-tiny-*")
    (run,) = StudyDirectory(path).points()
    result = run.read_result()
    with closing(sqlite3.connect(tmp_path / "runs" / "prefect" / "prefect.db")) as database:
        artifacts = dict(database.execute("SELECT type, data FROM artifact"))
        flows = list(database.execute("SELECT name FROM flow"))

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "finished     base: train step 200, loss " in ended.stdout
    assert result is not None
    assert result.steps == 200
    # The first loss is about ln 256 = 5.5; digits and signs alone would be at about ln 14 = 2.6.
    assert result.metrics["train/loss"] < 2.2
    assert flows == [("training-run",)]
    assert float(artifacts["progress"]) == 100
    assert "tokens per second" in artifacts["table"]
