"""A scaling study from end to end: real ranks, predictions, MLflow, Prefect; then once more."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.tracking.history import RunHistory, read_history
from tasks.tracking.study_directory import StudyDirectory

WATERSHED = Path(sys.executable).with_name("watershed")
STUDY = """
kind: scaling
description: Does a tiny GPT scale?
experiment:
  kind: training
  model: {layers: 1, hidden: 16, heads: 2, vocabulary: 256}
  data: {name: arithmetic, max_tokens: 20000}
  sequence: 16
  steps: 4
  evaluate_sequences: 4
  device: cpu
  topology:
    name: pretend
    levels: [{name: node, ranks: 2, link: {gb_per_s: 1, latency_us: 50}}]
    network: {gb_per_s: 0.1, latency_us: 100}
    device: {rates: {float32: [{gflops: 0.001, tflops: 0.001}]}, memory_gb_per_s: 5, power_w: 9}
  partition: zero3
  transport: full
sizes: [1, 2]
"""


@dataclass(frozen=True)
class Ended:
    """A call of the command line."""

    code: int
    output: str
    study: StudyDirectory


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Path:
    """A directory with the study; Prefect was used there before."""
    directory = tmp_path_factory.mktemp("scaling")
    shutil.copytree(used_home, directory / "runs" / "prefect")
    (directory / "grow.yaml").write_text(STUDY)
    return directory


def _run(workplace: Path, *settings: str) -> Ended:
    hidden = ("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    before = set(workplace.glob("runs/grow-*"))
    ended = subprocess.run(
        [WATERSHED, "run", "grow.yaml", *(word for one in settings for word in ("--set", one))],
        cwd=workplace,
        env=inherited | {"HOME": str(workplace), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    (path,) = set(workplace.glob("runs/grow-*")) - before
    return Ended(ended.returncode, ended.stdout, StudyDirectory(path))


@pytest.fixture(scope="module")
def first(workplace: Path) -> Ended:
    """1 and 2 ranks are measured."""
    return _run(workplace)


@pytest.fixture(scope="module")
def second(workplace: Path, first: Ended) -> Ended:
    """The same, and 4 ranks, which are predicted only; nothing has to run."""
    assert first.code == 0, first.output
    return _run(workplace, "sizes=[1, 2, 4]", "measure=2")


def _histories(study: StudyDirectory) -> list[RunHistory]:
    return [read_history(run) for run in study.points()]


def test_the_points_are_measured_and_predicted(first: Ended) -> None:
    """Each point is a job of its ranks, and has a prediction beside it; the exit code is 0."""
    assert first.code == 0, first.output
    histories = _histories(first.study)
    assert [one.state for one in histories] == ["finished", "finished"]
    assert all(one.prediction and one.prediction.step_s > 0 for one in histories)
    (two,) = [one for one in histories if one.job.training.ranks == 2]
    assert two.prediction is not None
    # What is counted on the wire is what the closed form says, to the byte.
    assert two.series("bytes/node").last == two.prediction.bytes_per_step["node"]


def test_the_report_has_figures_to_look_at_and_around_in(first: Ended) -> None:
    """PNGs, the interactive page, and their names on the terminal."""
    study = first.study

    assert study.scaling.read_bytes().startswith(b"\x89PNG")
    assert study.scaling_split.read_bytes().startswith(b"\x89PNG")
    assert study.scaling_page.stat().st_size > 1_000_000
    assert "| TFLOPS | predicted | step, predicted / measured |" in study.report.read_text()
    assert f"Figure            runs/{study.path.name}/scaling.png" in first.output
    assert f"Interactive       runs/{study.path.name}/scaling.html" in first.output


def test_a_repeated_study_runs_only_what_is_new(first: Ended, second: Ended) -> None:
    """Two points are taken over, one is predicted only: all is over, and the exit code is 0."""
    assert second.code == 0, second.output
    one, two, four = _histories(second.study)
    assert [one.state, two.state, four.state] == ["finished", "finished", "predicted"]
    for history, before in zip((one, two), _histories(first.study), strict=True):
        assert history.reused is not None
        assert history.reused.study == first.study.path.name
        assert history.series("speed/tflops").last == before.series("speed/tflops").last
        assert not history.directory.stdout.exists()
    assert f"2 of 3 reused from {first.study.path.name}" in second.output
    assert "1 of 3 predicted only: not to be measured (measure: up_to 2)" in second.output
    assert "Continue with" not in second.output


def test_mlflow_has_a_child_for_each_point(workplace: Path, second: Ended) -> None:
    """Measures, predictions, efficiency and costs, with tags for what was not computed here."""
    from mlflow import MlflowClient  # noqa: PLC0415  3 s

    client = MlflowClient(f"sqlite:///{workplace}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("grow")
    assert experiment is not None
    where = f"tags.`watershed.run_directory` LIKE '%{second.study.path.name}%'"
    runs = client.search_runs([experiment.experiment_id], filter_string=where)
    found = {run.info.run_name: run for run in runs}

    assert set(found) == {"ranks=1", "ranks=2", "ranks=4"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    two, four = found["ranks=2"].data, found["ranks=4"].data
    assert {"result/tflops", "result/bytes_node", "result/peak_bytes"} <= set(two.metrics)
    assert {"predicted/tflops", "predicted/energy_j", "predicted/efficiency"} <= set(two.metrics)
    assert {"scaling/efficiency", "scaling/node_hours", "scaling/devices"} <= set(two.metrics)
    assert "watershed.reused_from" in two.tags
    assert "result/tflops" not in four.metrics
    assert four.metrics["predicted/node_hours"] > 0
    assert four.tags["watershed.predicted_only"].startswith("not to be measured")
    parent = client.get_run(two.tags["mlflow.parentRunId"])
    of_measured = [run.data.metrics for run in runs if "result/step_s" in run.data.metrics]
    errors = [abs(one["predicted/step_s"] / one["result/step_s"] - 1) for one in of_measured]
    mean_error = sum(errors) / len(errors)
    assert parent.data.metrics["scaling/mean_prediction_error"] == pytest.approx(mean_error)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"scaling.png", "scaling_split.png", "scaling.html", "scaling.json"} <= files


def test_prefect_has_the_flow_and_its_report(workplace: Path, second: Ended) -> None:
    """The flow says how many points were reused and predicted; the figures are in its artifact."""
    with closing(sqlite3.connect(workplace / "runs" / "prefect" / "prefect.db")) as database:
        flows = {name for (name,) in database.execute("SELECT name FROM flow")}
        states = dict(
            database.execute(
                "SELECT r.name, s.message FROM flow_run r "
                "JOIN flow_run_state s ON s.id = r.state_id"
            )
        )
        artifacts = dict(database.execute("SELECT key, data FROM artifact WHERE key IS NOT NULL"))

    assert flows == {"scaling-study"}
    assert states[second.study.path.name] == "2 points finished, 2 of them reused, 1 predicted only"
    assert "data:image/png;base64," in artifacts["grow"]
