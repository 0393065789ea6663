"""Journals in a real MLflow: SQLite and an HTTP server; killed, stopped, started again."""

import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from configs.study import Study
from tasks.runtime.journal import Journal, read_journal
from tasks.runtime.metrics import Metric
from tasks.runtime.records import Exit, JobFile, Result
from tasks.runtime.run_directory import RunDirectory
from tasks.steps.reporting import with_pages
from tasks.tracking.follower import RunFollower
from tasks.tracking.old_views import MOST_STUDIES, retire_views
from tasks.tracking.store import Store, default_tracking_uri, open_store
from tasks.tracking.stored import MetricPoint
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker
from tasks.tracking.views import view_links, view_tags, views_by_run
from tests.integration.mlflow_server import MlflowServer, metric_rows

_FOLLOW = Path(__file__).with_name("follow.py")


@pytest.fixture
def sqlite_uri(server: MlflowServer) -> str:
    """The server's database, without the server."""
    return f"sqlite:///{server.database}"


@pytest.fixture(params=["sqlite", "http"])
def uri(request: pytest.FixtureRequest, server: MlflowServer, sqlite_uri: str) -> str:
    """The same database, by SQLite and by HTTP."""
    return sqlite_uri if request.param == "sqlite" else server.uri


def _new_run(uri: str) -> str:
    store = open_store(uri)
    experiment = store.experiment("points", "")
    return store.find_or_create_run(experiment, f"{random.getrandbits(64):x}", name="r", tags={})


def _write_lines(directory: RunDirectory, first: int, last: int) -> None:
    directory.path.mkdir(exist_ok=True)
    with Journal(directory.journal, first) as journal:
        for number in range(first, last):
            journal.write(
                10 * number,
                {
                    Metric.TRAIN_LOSS: 1 / (1 + number),
                    Metric.VIRTUAL_S: 0.1 * number,
                    Metric.DELAY_MAX: float(number % 7),
                    "test/a strange, name!": 1.0,
                },
            )


def _journal_rows(directory: RunDirectory) -> list[tuple[str, int, float, int]]:
    """What the database must hold, no more and no less."""
    return sorted(
        (name.replace(",", "_").replace("!", "_"), line.step, value, line.timestamp_ms)
        for line, _ in read_journal(directory.journal)
        for name, value in line.metrics.items()
    )


_FEDERATED: dict[str, object] = {
    "workers": 2,
    "model": {"name": "quadratic"},
    "algorithm": {"name": "afa_cd", "collect": 1},
}


def _study(
    path: Path,
    *,
    num_points: int = 2,
    experiment: dict[str, object] = _FEDERATED,
    grid: dict[str, object] | None = None,
) -> StudyDirectory:
    """A study whose points have run and ended, without a report."""
    study = Study.model_validate(
        {
            "name": f"study-{path.parent.name}",
            "description": "Which seed?",
            "experiment": experiment,
            "grid": grid or {"seed": list(range(num_points))},
        }
    )
    directory = StudyDirectory(path)
    path.mkdir(parents=True)
    directory.study.write_text(study.model_dump_json())
    for point in study.points():
        run = directory.point(point.index, point.label)
        run.attempt(1).mkdir(parents=True)
        run.job.write_text(
            JobFile(
                study=study.name,
                point=point.label,
                coordinates=dict(point.coordinates),
                config_hash=point.config_hash,
                experiment=point.experiment,
            ).model_dump_json()
        )
        run.model.write_bytes(b"weights")
        _write_lines(run, 0, 30)
        _end(run, Result(status="finished", wall_s=2.0))
    return directory


def _end(run: RunDirectory, result: Result) -> None:
    run.result.write_text(result.model_dump_json())
    exit_file = run.attempts()[-1] / "exit.json"
    exit_file.write_text(Exit(code=0, timestamp_ms=1).model_dump_json())


def _runs(client: MlflowClient, study: StudyDirectory, view: int = ViewType.ALL) -> list[Run]:
    experiment = client.get_experiment_by_name(study.read_study().name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], run_view_type=view))


def _is_of_study(run: Run) -> bool:
    return "watershed.study_directory" in run.data.tags


def test_what_is_sent_twice_is_there_once(server: MlflowServer, uri: str) -> None:
    """MLflow's primary key takes a batch again, whole or overlapping, without a second row."""
    run_id = _new_run(uri)
    points = [MetricPoint("loss", 1 / (3 + i), 1000 + i, i) for i in range(1100)]
    store = open_store(uri)

    for first, last in ((0, 300), (0, 300), (200, 400), (0, 1100)):
        store.log_points(run_id, points[first:last])

    rows = metric_rows(server.database, run_id)
    assert rows == [(p.key, p.step, p.value, p.timestamp_ms) for p in points]
    history = MlflowClient(uri).get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(p.step, p.value) for p in points]


def test_a_batch_whose_cursor_was_lost_arrives_once(
    server: MlflowServer, uri: str, tmp_path: Path
) -> None:
    """Killed after sending, before the cursor is stored: the next follower changes nothing."""
    directory = RunDirectory(tmp_path / "run")
    _write_lines(directory, 0, 100)
    run_id = _new_run(uri)
    follower = RunFollower(directory, run_id, uri)
    follower.send()
    before = directory.tracking.read_bytes()
    _write_lines(directory, 100, 150)
    follower.send()
    directory.tracking.write_bytes(before)

    num_sent = RunFollower(directory, run_id, uri).send()

    assert num_sent == 50 * 4
    assert metric_rows(server.database, run_id) == _journal_rows(directory)


def test_a_growing_journal_is_followed(sqlite_uri: str, tmp_path: Path) -> None:
    """Each poll sends the complete new lines; a torn line waits for its end."""
    directory = RunDirectory(tmp_path)
    follower = RunFollower(directory, _new_run(sqlite_uri), sqlite_uri)
    sent = [follower.poll().num_sent]
    for lines in (3, 5):
        _write_lines(directory, 0, lines)
        sent.append(follower.poll().num_sent)
    whole = directory.journal.read_bytes()
    directory.journal.write_bytes(whole + b'{"sequence": 5, "st')
    sent.append(follower.poll().num_sent)
    directory.journal.write_bytes(whole)
    _write_lines(directory, 0, 6)

    sent.append(follower.poll().num_sent)

    assert sent == [0, 12, 8, 0, 4]


def test_lines_written_anew_after_a_power_cut_are_not_sent_again(
    server: MlflowServer, sqlite_uri: str, tmp_path: Path
) -> None:
    """Lines that a compute node lost after they were read come back with other timestamps."""
    directory = RunDirectory(tmp_path / "run")
    run_id = _new_run(sqlite_uri)
    _write_lines(directory, 0, 10)
    follower = RunFollower(directory, run_id, sqlite_uri)
    follower.send()
    expected = _journal_rows(directory)
    kept = b"".join(directory.journal.read_bytes().splitlines(keepends=True)[:4])
    time.sleep(0.01)  # other timestamps
    directory.journal.write_bytes(kept)
    assert follower.poll().num_sent == 0
    _write_lines(directory, 4, 12)

    num_sent = follower.poll().num_sent

    assert num_sent == 2 * 4
    new = [row for row in _journal_rows(directory) if row[1] >= 100]
    assert metric_rows(server.database, run_id) == sorted(expected + new)


def test_killed_followers_send_each_point_once(
    server: MlflowServer, uri: str, tmp_path: Path
) -> None:
    """SIGKILL at random moments of sending, and a follower after it: every point, once."""
    directory = RunDirectory(tmp_path / "run")
    _write_lines(directory, 0, 4000)
    run_id = _new_run(uri)
    command = [sys.executable, str(_FOLLOW), str(directory.path), run_id, uri]
    offsets = []
    for _ in range(2):
        before = _offset(directory)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while _offset(directory) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            process.kill()
        offsets.append(_offset(directory))

    RunFollower(directory, run_id, uri).send()

    assert 0 < offsets[0] < offsets[1]
    assert metric_rows(server.database, run_id) == _journal_rows(directory)


def _offset(directory: RunDirectory) -> int:
    if not directory.tracking.exists():
        return 0
    return int(json.loads(directory.tracking.read_bytes())["offset"])


def test_a_study_becomes_a_parent_run_with_children(
    server: MlflowServer, uri: str, tmp_path: Path
) -> None:
    """Experiment, runs, parameters, tags, metrics, artifacts and status; made once, found after."""
    study = _study(tmp_path / "study-1")
    study.report.write_text("# report\n\n![curves](curves.png)\n")
    tracker = StudyTracker(study.path, uri, flow_run_id="flow-7")
    client = MlflowClient(uri)

    followed = tracker.close()
    again = StudyTracker(study.path, uri).close()

    assert (followed.num_sent, followed.error, again.num_sent) == (2 * 30 * 4, None, 0)
    runs = {run.info.run_name: run for run in _runs(client, study)}
    assert set(runs) == {"study-1", "seed=0", "seed=1"}
    parent, child = runs["study-1"], runs["seed=1"]
    assert parent.data.params == {"grid.seed": "0, 1"}
    note = parent.data.tags["mlflow.note.content"]
    assert "time/virtual_s" in note
    assert f"![curves](get-artifact?path=curves.png&run_uuid={parent.info.run_id})" in note
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["axis.seed"] == "1"
    assert child.data.tags["prefect.flow_run_id"] == "flow-7"
    point = study.points()[1]
    assert child.data.tags["watershed.config_hash"] == point.read_job().config_hash
    assert child.data.tags["watershed.run_directory"] == str(point.path)
    assert child.data.params == {"seed": "1"}
    assert child.data.tags["watershed.algorithm"] == "afa_cd"
    configuration = yaml.safe_load(_text(client, child, "config.yaml"))
    assert configuration["model"]["centres"] == [0.0, 100.0]
    assert child.data.metrics["result/wall_s"] == 2.0
    assert child.data.metrics["result/train_loss"] == pytest.approx(1 / 30)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert _artifacts(client, child) == {
        "config.yaml", "job.json", "model.safetensors", "result.json"
    }  # fmt: skip
    assert _artifacts(client, parent) == {"report.md", "study.json"}
    rows = [r for r in metric_rows(server.database, child.info.run_id) if r[0][:7] != "result/"]
    assert rows == _journal_rows(point)


def test_the_interactive_page_is_reached_from_mlflow_and_prefect(
    server: MlflowServer, tmp_path: Path
) -> None:
    """The addresses in the description and in Prefect's artifact are answered with the page."""
    study = _study(tmp_path / "study-1", num_points=1)
    study.report.write_text("# report\n\nInteractive: [scaling.html](scaling.html).\n")
    study.scaling_page.write_text("<p>pages</p>")

    assert StudyTracker(study.path, server.uri).close().error is None
    parent = next(run for run in _runs(MlflowClient(server.uri), study) if _is_of_study(run))
    note = parent.data.tags["mlflow.note.content"]
    shown = with_pages(study.report.read_text(), study.path, server.uri)

    (relative,) = re.findall(r"\[scaling\.html\]\((\S+)\)", note)
    (absolute,) = re.findall(r"\[scaling\.html\]\((\S+)\)", shown)
    assert absolute == f"{server.uri}/{relative}"
    with urllib.request.urlopen(absolute, timeout=20) as answer:  # noqa: S310
        assert answer.read() == b"<p>pages</p>"


def test_older_studies_give_their_views_back(sqlite_uri: str) -> None:
    """The newest two have theirs, and one that runs; a description that loses them has a link."""
    store = open_store(sqlite_uri)
    experiment = store.experiment("old views", "")
    kind: Literal["training"] = "training"
    run_ids = []
    for number in range(6):
        tags = {"watershed.study_directory": f"/runs/{number}"}
        run_id = store.find_or_create_run(experiment, f"old-{number}", name="r", tags=tags)
        note = f"Compare by {view_links(experiment, run_id, kind)}."
        store.log_tags(run_id, {"mlflow.note.content": note})
        store.tag_experiment(experiment, view_tags(run_id, ["a"], kind, ["a"]))
        store.set_status(run_id, "RUNNING" if number == 0 else "FINISHED")
        run_ids.append(run_id)
    shared = {f"mlflow.sharedViewState.{'0a' * 32}": "{}"}
    store.tag_experiment(experiment, shared)
    store.client.delete_run(run_ids[1])

    retire_views(store, experiment, run_ids[-1], most=2)
    left = store.experiment_tags(experiment)
    retire_views(store, experiment, run_ids[-1], most=2)

    assert store.experiment_tags(experiment) == left
    kept = [run_ids[0], *run_ids[-2:]]
    assert set(views_by_run(left)) == {run_id[:12] for run_id in kept}
    assert shared.items() <= left.items()
    notes = {run.run_id: run.tags["mlflow.note.content"] for run in store.runs(experiment, "")}
    for run_id, note in notes.items():
        assert ("viewStateShareKey" in note) == (run_id in kept)
        assert f"{run_id[:12]}" in note


def test_a_study_that_begins_takes_older_views_back(sqlite_uri: str, tmp_path: Path) -> None:
    """So that an experiment has no more of them however often its study runs."""
    studies = [_study(tmp_path / f"study-{number}", num_points=1) for number in (1, 2)]
    store = open_store(sqlite_uri)
    StudyTracker(studies[0].path, sqlite_uri).close()
    experiment = store.experiment(studies[0].read_study().name, "")
    gone = {f"mlflow.sharedViewState.{number:012x}-by-step": "{}" for number in range(MOST_STUDIES)}
    store.tag_experiment(experiment, gone)

    assert StudyTracker(studies[1].path, sqlite_uri).close().error is None

    left = store.experiment_tags(experiment)
    assert len(gone.keys() & left.keys()) < len(gone)
    assert {one.data.tags["mlflow.parentRunId"][:12] for one in _points(store, studies)} <= set(
        views_by_run(left)
    )


def _points(store: Store, studies: Sequence[StudyDirectory]) -> list[Run]:
    runs = [run for study in studies for run in _runs(store.client, study)]
    return [run for run in runs if not _is_of_study(run)]


def test_a_training_is_told_by_its_names_and_its_speed(sqlite_uri: str, tmp_path: Path) -> None:
    """No parameter but what varies; results of a training; no model if it is huge."""
    study = _study(tmp_path / "study-1", num_points=1, experiment={"kind": "training"})
    (point,) = study.points()
    with Journal(point.journal, 30) as journal:
        journal.write(300, {Metric.VALIDATION_LOSS: 2.5, Metric.TOKENS_PER_S: 4e3})
    os.truncate(point.model, 100_000_001)

    StudyTracker(study.path, sqlite_uri).close()

    client = MlflowClient(sqlite_uri)
    runs = {run.info.run_name: run for run in _runs(client, study)}
    child = runs["seed=0"]
    assert child.data.params == {"seed": "0"}
    assert child.data.tags["watershed.partition"] == "zero_topo"
    assert child.data.tags["watershed.model"] == "gpt-1m"
    assert child.data.metrics["result/train_loss"] == pytest.approx(1 / 30)
    assert child.data.metrics["result/validation_loss"] == 2.5
    assert child.data.metrics["result/tokens_per_s"] == 4e3
    assert _artifacts(client, child) == {"config.yaml", "job.json", "result.json"}
    assert child.data.tags["watershed.model_file"] == f"{point.model} (100 MB)"
    assert "time/wall_s" in runs["study-1"].data.tags["mlflow.note.content"]


def _text(client: MlflowClient, run: Run, name: str) -> str:
    """Read an artifact."""
    return Path(client.download_artifacts(run.info.run_id, name)).read_text(encoding="utf-8")


def _artifacts(client: MlflowClient, run: Run) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def test_virtual_time_can_be_the_axis_of_every_metric(sqlite_uri: str, tmp_path: Path) -> None:
    """MLflow's charts pair two metrics by step, so each step of one must be a step of the other."""
    directory = RunDirectory(tmp_path / "run")
    _write_lines(directory, 0, 20)
    run_id = _new_run(sqlite_uri)

    RunFollower(directory, run_id, sqlite_uri).send()

    client = MlflowClient(sqlite_uri)
    clock = client.get_metric_history(run_id, Metric.VIRTUAL_S)
    loss = client.get_metric_history(run_id, Metric.TRAIN_LOSS)
    assert (
        [point.step for point in clock]
        == [point.step for point in loss]
        == [10 * number for number in range(20)]
    )


def test_a_crash_after_creating_runs_creates_no_others(tmp_path: Path, sqlite_uri: str) -> None:
    """The key is on disk before the run exists; without the run's id it is found by the key."""
    study = _study(tmp_path / "study-1")
    StudyTracker(study.path, sqlite_uri).poll()
    for directory in (RunDirectory(study.path), *study.points()):
        cursor = json.loads(directory.tracking.read_bytes())
        directory.tracking.write_text(
            json.dumps(cursor | {"run_id": "", "offset": 0, "sequence": 0, "num_ended": 0})
        )

    StudyTracker(study.path, sqlite_uri).close()

    client = MlflowClient(sqlite_uri)
    runs = _runs(client, study)
    assert len(runs) == 3
    assert all(len(client.get_metric_history(r.info.run_id, "result/rate")) <= 1 for r in runs)


def test_interrupted_and_resumed_runs_go_on_in_the_same_run(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """KILLED after the interruption, RUNNING when resumed, FINISHED at the end; one MLflow run."""
    study = _study(tmp_path / "study-1", num_points=1)
    (point,) = study.points()
    client = MlflowClient(sqlite_uri)

    def status_after(tracker: StudyTracker) -> str:
        tracker.poll()
        by_name = {run.info.run_name: str(run.info.status) for run in _runs(client, study)}
        return by_name["seed=0"]

    _end(point, Result(status="interrupted"))
    interrupted = status_after(StudyTracker(study.path, sqlite_uri, flow_run_id="first"))
    point.attempt(2).mkdir()
    _write_lines(point, 30, 40)
    tracker = StudyTracker(study.path, sqlite_uri, flow_run_id="second")
    resumed = status_after(tracker)
    _end(point, Result(status="finished"))
    finished = status_after(tracker)

    assert (interrupted, resumed, finished) == ("KILLED", "RUNNING", "FINISHED")
    run = next(r for r in _runs(client, study) if r.info.run_name == "seed=0")
    assert run.data.tags["prefect.flow_run_id"] == "second"
    assert len(client.get_metric_history(run.info.run_id, Metric.TRAIN_LOSS)) == 40
    assert len(_runs(client, study)) == 2


def test_a_job_that_left_no_end_is_killed(sqlite_uri: str, tmp_path: Path) -> None:
    """When all jobs are over, an attempt without an end was killed; so is its study."""
    study = _study(tmp_path / "study-1")
    (study.points()[0].attempts()[-1] / "exit.json").unlink()

    StudyTracker(study.path, sqlite_uri).close()

    runs = {run.info.run_name: run.info.status for run in _runs(MlflowClient(sqlite_uri), study)}
    assert runs == {"study-1": "KILLED", "seed=0": "KILLED", "seed=1": "FINISHED"}


def test_one_deleted_run_does_not_hold_up_the_others(sqlite_uri: str, tmp_path: Path) -> None:
    """What somebody deleted in MLflow stays deleted, and is told; the others go on."""
    study = _study(tmp_path / "study-1")
    first, second = study.points()
    for point in (first, second):
        (point.attempts()[-1] / "exit.json").unlink()
    tracker = StudyTracker(study.path, sqlite_uri)
    tracker.poll()
    client = MlflowClient(sqlite_uri)
    deleted = json.loads(first.tracking.read_bytes())["run_id"]
    client.delete_run(deleted)
    _write_lines(first, 30, 35)
    _write_lines(second, 30, 35)

    followed = tracker.poll()

    assert followed.num_sent == 5 * 4
    assert followed.error is not None
    assert deleted in followed.error


def test_an_unreadable_job_does_not_hold_up_the_others(sqlite_uri: str, tmp_path: Path) -> None:
    """A damaged file in one run's directory is told with its path; the study's run has failed."""
    study = _study(tmp_path / "study-1")
    study.points()[0].job.write_text("{}")

    followed = StudyTracker(study.path, sqlite_uri).close()

    assert followed.num_sent == 30 * 4
    assert followed.error is not None
    assert str(study.points()[0].path) in followed.error
    runs = {run.info.run_name: run.info.status for run in _runs(MlflowClient(sqlite_uri), study)}
    assert runs == {"study-1": "FAILED", "seed=1": "FINISHED"}


def test_doubled_runs_are_reduced_to_the_oldest(server: MlflowServer) -> None:
    """Where a request was carried out after we gave up on it, both sides agree on one run."""
    store, client = open_store(server.uri), MlflowClient(server.uri)
    experiment = store.experiment("doubles", "")
    tags = {"watershed.key": "k"}
    older = client.create_run(experiment, start_time=1000, tags=tags).info.run_id
    client.create_run(experiment, start_time=2000, tags=tags)

    found = [store.find_or_create_run(experiment, "k", name="n", tags={}) for _ in range(2)]

    assert found == [older, older]
    assert len(client.search_runs([experiment])) == 1


def test_a_deleted_experiment_is_told_with_the_remedy(server: MlflowServer, tmp_path: Path) -> None:
    """Nothing is restored behind the user's back."""
    study = _study(tmp_path / "study-1")
    client = MlflowClient(server.uri)
    client.delete_experiment(client.create_experiment(study.read_study().name))

    followed = StudyTracker(study.path, server.uri).close(patience_s=1)

    assert followed.error is not None
    assert "mlflow experiments restore --experiment-id" in followed.error


def test_a_stopped_server_loses_nothing(server: MlflowServer, tmp_path: Path) -> None:
    """Polls while the server is down return at once and say so; afterwards every point is there."""
    early, late = _study(tmp_path / "study-1"), _study(tmp_path / "study-2")
    run = early.points()[0]
    (run.attempts()[-1] / "exit.json").unlink()
    tracker = StudyTracker(early.path, server.uri)
    tracker.poll()
    run_id = json.loads(run.tracking.read_bytes())["run_id"]

    server.stop()
    _write_lines(run, 30, 60)
    began = time.monotonic()
    down = [tracker.poll(), tracker.poll(), StudyTracker(late.path, server.uri).poll()]
    took_s = time.monotonic() - began
    server.start()
    _end(run, Result(status="finished"))
    closed = [tracker.close(), StudyTracker(late.path, server.uri).close()]

    assert [followed.num_sent for followed in down] == [0, 0, 0]
    assert {followed.error for followed in down} == {
        f"MLflow at {server.uri} does not answer (ConnectionError)"
    }
    assert took_s < 10  # not MLflow's own four minutes
    assert [(followed.num_sent, followed.error) for followed in closed] == [
        (30 * 4, None),
        (2 * 30 * 4, None),
    ]
    rows = [row for row in metric_rows(server.database, run_id) if row[0][:7] != "result/"]
    assert rows == _journal_rows(run)
    statuses = {run.info.status for run in _runs(MlflowClient(server.uri), late)}
    assert statuses == {"FINISHED"}


def test_the_default_store_lies_in_the_runs_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite beside the runs, its artifacts beside it; MLFLOW_TRACKING_URI wins."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = default_tracking_uri(tmp_path / "runs")
    study = _study(tmp_path / "runs" / "study-1", num_points=1)
    StudyTracker(study.path, uri).close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    from_environment = default_tracking_uri(tmp_path / "runs")

    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert (tmp_path / "runs" / "mlflow.db").exists()
    assert len(list((tmp_path / "runs" / "mlartifacts").rglob("model.safetensors"))) == 1
    assert from_environment == "http://tracking:5000"


def test_axes_with_any_name_are_found_by_the_views(sqlite_uri: str, tmp_path: Path) -> None:
    """MLflow refuses some characters: parameters, tags and views replace them alike."""
    axis = {"small": {"worker.lr": 0.1}, "large": {"worker.lr": 0.2}}
    study = _study(tmp_path / "study-1", grid={"step, size (\N{GREEK SMALL LETTER ETA})": axis})

    followed = StudyTracker(study.path, sqlite_uri).close()

    assert followed.error is None
    client = MlflowClient(sqlite_uri)
    runs = _runs(client, study)
    tags = client.get_experiment(runs[0].info.experiment_id).tags
    views = {
        name.rsplit("-by-", 1)[-1]: json.loads(text)
        for name, text in tags.items()
        if name.startswith("mlflow.sharedViewState.")
    }
    (group,) = views["step"]["groupBy"]["groupByKeys"]
    (chart,) = views["grid"]["compareRunCharts"]
    children = [run for run in runs if not _is_of_study(run)]
    assert len(children) == 2
    assert {run.data.tags[group["groupByData"]] for run in children} == {"small", "large"}
    assert {run.data.params[chart["selectedParams"][0]] for run in children} == {"small", "large"}


@pytest.mark.parametrize("name", ["a%20b", "a#b", "a%b", "a b", "a+&b"])
def test_data_lie_in_the_runs_root_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Database and artifacts, where MLflow takes the directory for an address."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs_dir = tmp_path / name
    runs_dir.mkdir()
    store = open_store(default_tracking_uri(runs_dir))

    experiment = store.experiment("named", "")
    run_id = store.find_or_create_run(experiment, "k", name="n", tags={})
    store.log_text(run_id, "text", "told.txt")

    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert sorted(path.name for path in runs_dir.iterdir()) == ["mlartifacts", "mlflow.db"]
    (told,) = runs_dir.rglob("told.txt")
    assert told.read_text() == "text"
