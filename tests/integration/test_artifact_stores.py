"""Artifact stores that fail while a real MLflow does not: nothing but artifacts may suffer."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import save_file

from configs.study import Study
from tasks.runtime.records import Result
from tasks.tracking.report import write_report
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker
from tests.integration.front_server import FrontServer, nothing_refused
from tests.integration.mlflow_server import MlflowServer
from tests.unit.tracking.conftest import federated_line, write_run

_LIMIT = 100_000
_QUADRATIC: dict[str, object] = {
    "workers": 2,
    "model": {"name": "quadratic"},
    "algorithm": {"name": "afa_cd", "collect": 1},
}


@pytest.fixture
def front(server: MlflowServer) -> Iterator[FrontServer]:
    """A server before it, which refuses nothing yet."""
    front = FrontServer(server.uri)
    yield front
    front.stop()


def _too_large(_: str, num_bytes: int) -> int:
    return 413 if num_bytes > _LIMIT else 0


def _study(path: Path, experiment: dict[str, object], num_points: int = 2) -> StudyDirectory:
    """A study whose points have run and ended, each with a model larger than the limit."""
    raw = {
        "name": f"study-{path.parent.name}",
        "experiment": {"kind": "federated", **experiment},
        "grid": {"seed": list(range(num_points))},
    }
    study = Study.model_validate(raw)
    directory = StudyDirectory(path)
    path.mkdir()
    directory.study.write_text(study.model_dump_json())
    for point in study.points():
        run = directory.point(point.index, point.label)
        write_run(
            run,
            point,
            study=study.name,
            line=lambda _, step: federated_line(1 / (4 + step), step),
            steps=range(1, 40, 10),
            result=Result(status="finished", wall_s=3.0),
        )
        save_file({"model": np.zeros(_LIMIT, np.float32)}, run.model)
    return directory


def _runs(client: MlflowClient, study: StudyDirectory) -> dict[str, Run]:
    experiment = client.get_experiment_by_name(study.read_study().name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return {str(run.info.run_name): run for run in found}


def _artifacts(client: MlflowClient, run: Run) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def test_without_the_package_of_its_artifact_store_a_study_is_tracked(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Artifacts on S3 need boto3; curves, tags and states do not, and the package is named."""
    monkeypatch.setitem(sys.modules, "boto3", None)  # as if it were not installed
    uri = f"sqlite:///{server.database}"
    study = _study(tmp_path / "study-1", _QUADRATIC)
    client = MlflowClient(uri)
    client.create_experiment(study.read_study().name, artifact_location="s3://lab/mlflow")
    tracker = StudyTracker(study.path, uri)

    polled = tracker.poll()
    write_report(study.path)
    closed = tracker.close(patience_s=0)

    assert polled.error == closed.error
    assert "needs the Python package boto3" in (closed.error or "")
    assert "pip install boto3 (study.json stays in" in (closed.error or "")
    assert polled.num_sent == 2 * 4 * 9
    runs = _runs(client, study)
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("study-1", "seed=0", "seed=1"), "FINISHED"
    )
    place = runs["seed=1"].data.tags["watershed.model_file"]
    assert place.startswith(str(study.points()[1].model))
    report = study.report.read_text()
    assert "## What MLflow has not got" in report
    assert report.count("boto3, which is not installed here") == 2
    assert "watershed resume" in report


def test_a_model_that_is_too_large_holds_nothing_up(front: FrontServer, tmp_path: Path) -> None:
    """413 for the models of all points; sent at once when the limit is raised and all resumed."""
    front.rule = _too_large
    study = _study(tmp_path / "study-1", _QUADRATIC)
    client = MlflowClient(front.uri)

    refused = StudyTracker(study.path, front.uri).close(patience_s=0)
    before = _runs(client, study)
    artifacts = _artifacts(client, before["seed=1"])
    front.rule = nothing_refused
    resumed = StudyTracker(study.path, front.uri).close(patience_s=0)
    again = StudyTracker(study.path, front.uri).close(patience_s=0)

    first = study.points()[0]
    assert refused.error == (
        f"MLflow at {front.uri} refuses: 413 Client Error: Request Entity Too Large; raise the "
        "limit of the server before MLflow (nginx: client_max_body_size) (model.safetensors stays "
        f"in {first.path})"
    )
    assert {run.info.status for run in before.values()} == {"FINISHED"}
    assert before["seed=0"].data.tags["watershed.model_file"].startswith(str(first.model))
    assert all("result/train_loss" in before[f"seed={n}"].data.metrics for n in (0, 1))
    assert artifacts == {"config.yaml", "job.json", "result.json"}
    assert (resumed.error, again.error) == (None, None)
    after = _runs(client, study)
    assert _artifacts(client, after["seed=1"]) == artifacts | {"model.safetensors"}
    ends = [after[name].info.end_time == before[name].info.end_time for name in before]
    assert ends.count(True) == 2  # of the points, which had ended; the study has gone on


def test_a_refused_model_is_no_ready_one(front: FrontServer, tmp_path: Path) -> None:
    """MLflow lists it as failed, until it has its files."""
    front.rule = _too_large
    study = _study(tmp_path / "study-1", {"data": "digits"}, num_points=1)
    client = MlflowClient(front.uri)

    def logged() -> list[str]:
        experiment = client.get_experiment_by_name(study.read_study().name)
        assert experiment is not None
        return [str(one.status) for one in client.search_logged_models([experiment.experiment_id])]

    tracker = StudyTracker(study.path, front.uri)
    polled, refused = tracker.poll(), logged()
    front.rule = nothing_refused
    closed, taken = tracker.close(patience_s=0), logged()

    assert "413" in (polled.error or "")
    assert (refused, closed.error, taken) == (["FAILED"], None, ["READY"])


def test_what_may_be_taken_later_is_sent_later_and_holds_no_other_point_up(
    front: FrontServer, tmp_path: Path
) -> None:
    """A store without room (507) for the first point: the second is complete, both have ended."""
    study = _study(tmp_path / "study-1", _QUADRATIC)
    client = MlflowClient(front.uri)
    num_models = 0

    def full_at_first(path: str, _: int) -> int:
        nonlocal num_models
        num_models += "model.safetensors" in path
        return 507 if "model.safetensors" in path and num_models == 1 else 0

    front.rule = full_at_first
    tracker = StudyTracker(study.path, front.uri)
    polled = tracker.poll()
    runs = _runs(client, study)
    has_model = {name: "model.safetensors" in _artifacts(client, run) for name, run in runs.items()}
    closed = tracker.close(patience_s=0)

    assert "507" in (polled.error or "")
    assert polled.retry_in_s > 0
    assert polled.num_sent == 2 * 4 * 9
    assert has_model == {"study-1": False, "seed=0": False, "seed=1": True}
    assert {runs[name].info.status for name in ("seed=0", "seed=1")} == {"FINISHED"}
    assert closed.error is None
    assert "model.safetensors" in _artifacts(client, runs["seed=0"])


def test_a_model_that_cannot_be_prepared_is_not_laid_to_mlflow(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of temporary files is told; the run has ended, and gets its model later."""
    uri = f"sqlite:///{server.database}"
    study = _study(tmp_path / "study-1", {"data": "digits"}, num_points=1)
    client = MlflowClient(uri)
    tracker = StudyTracker(study.path, uri)
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        polled = tracker.poll()
        status = _runs(client, study)["seed=0"].info.status

    closed = tracker.close(patience_s=0)

    assert (polled.error or "").startswith(str(tmp_path / "gone"))
    assert "cannot be used: No such file or directory" in (polled.error or "")
    assert (status, closed.error) == ("FINISHED", None)
    assert "config.yaml" in _artifacts(client, _runs(client, study)["seed=0"])


def test_a_run_that_is_resumed_while_its_files_wait_runs_again(
    front: FrontServer, tmp_path: Path
) -> None:
    """MLflow shows RUNNING from the next attempt on, and the end of that one."""
    study = _study(tmp_path / "study-1", _QUADRATIC, num_points=1)
    (point,) = study.points()
    client = MlflowClient(front.uri)
    front.rule = lambda path, _: 507 if "result.json" in path else 0
    statuses = []
    tracker = StudyTracker(study.path, front.uri)
    tracker.poll()
    statuses.append(_runs(client, study)["seed=0"].info.status)
    point.attempt(2).mkdir()

    StudyTracker(study.path, front.uri).poll()
    statuses.append(_runs(client, study)["seed=0"].info.status)
    (point.attempt(2) / "exit.json").write_bytes((point.attempt(1) / "exit.json").read_bytes())
    front.rule = nothing_refused
    closed = StudyTracker(study.path, front.uri).close(patience_s=0)
    statuses.append(_runs(client, study)["seed=0"].info.status)

    assert statuses == ["FINISHED", "RUNNING", "FINISHED"]
    assert closed.error is None


def test_the_password_of_an_address_is_written_nowhere(
    front: FrontServer, server: MlflowServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither by us nor by MLflow: not on disk, not in the database, not on the screen."""
    uri = f"http://alice:s3cret@{front.host}"
    front.rule = lambda path, _: 403 if "result.json" in path else 0
    study = _study(tmp_path / "study-1", _QUADRATIC)
    tracker = StudyTracker(study.path, uri)

    followed = [tracker.poll()]
    followed.append(tracker.close(patience_s=0))
    resumed = StudyTracker(study.path, uri)
    front.stop()
    followed.append(resumed.poll())

    captured = capfd.readouterr()
    written = [path.read_bytes() for path in study.path.rglob("*") if path.is_file()]
    written += [path.read_bytes() for path in server.database.parent.glob("mlflow.db*")]
    assert not any(b"s3cret" in content for content in written)
    assert "s3cret" not in f"{followed} {captured}"
    assert f"http://***@{front.host} refuses: 403" in (followed[1].error or "")
    assert f"http://***@{front.host} does not answer" in (followed[2].error or "")
    cursor = json.loads(study.points()[0].tracking.read_bytes())
    assert cursor["tracking_uri"] == f"http://***@{front.host}"
