"""Nights of a study with planted speeds: the real flow, jobs as processes, MLflow in SQLite."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.context import refresh_global_settings_context
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry

from configs.loading import load_study
from flows import points
from flows.nightly import nightly
from flows.run_nightly import exit_code
from flows.training import training_run
from tasks.runtime.atomic_files import write_json
from tasks.runtime.attempt import Claimant, claim, write_exit
from tasks.steps import launching
from tasks.steps.creation import create_study_directory
from tasks.steps.night_lock import night_lock
from tasks.steps.night_schedule import night_of, read_schedule
from tasks.tracking.nightly_record import NightRecord, read_night, write_night
from tasks.tracking.study_directory import StudyDirectory
from tasks.tracking.tracker import StudyTracker
from tests.cluster.prefect_server import PrefectServer
from tests.integration.nightly_job import measure

_ROOT = Path(__file__).parents[2]
_PREFECT = Path(sys.executable).with_name("prefect")
_STUDY = """
name: planted
experiment:
  kind: training
  model: {layers: 1, hidden: 8, heads: 1, vocabulary: 256}
  data: arithmetic
  sequence: 8
  steps: 3
  optimizer: {lr: 0.001}
grid:
  seed: [0, 1]
  optimizer.lr: [0.001, 0.002]
"""
_SCHEDULED_WITHIN_S = 90.0
"""The scheduler looks for new deployments every 5 s."""
_FIRST = date(2026, 3, 27)
"""Two days before the clocks of Europe change: the nights of 28 to 30 March."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[PrefectServer]:
    """A Prefect server with an empty database, at which all flows of this module run."""
    directory = tmp_path_factory.mktemp("prefect")
    server = PrefectServer(directory, used_home)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", server.api)
        patch.setenv("PREFECT_HOME", str(directory))
        refresh_global_settings_context()  # the flow's threads know no other
        yield server
    refresh_global_settings_context()
    server.stop()


@pytest.fixture(scope="module")
def study(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two points with two repeats, and the directory of its runs beside it."""
    del server  # it has to be there
    path = tmp_path_factory.mktemp("nightly") / "planted.yaml"
    path.write_text(_STUDY)
    return path


@pytest.fixture(autouse=True)
def _planted_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "TRAINING", "tests.integration.nightly_job")
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _night(study: Path, number: int, planted: dict[str, float], **parameters: Any) -> State[Any]:
    """Run the flow for the night of that number, with planted speeds."""
    os.environ["PLANTED"] = json.dumps(planted)
    state: State[Any] = nightly(
        str(study),
        runs_dir=study.parent / "runs",
        night=_FIRST + timedelta(days=number),
        num_parallel=2,
        **{"metrics": ["tokens_per_s", "step_s"], **parameters},
        return_state=True,
    )
    return state


def _write_night(study: Path, number: int, planted: dict[str, float]) -> None:
    """Leave what the night of that number would have left, without jobs and flow."""
    os.environ["PLANTED"] = json.dumps(planted)
    runs_dir = study.parent / "runs"
    directory = create_study_directory(load_study(study), runs_dir, datetime.now().astimezone())
    night = _FIRST + timedelta(days=number)
    write_night(directory.path, NightRecord(night=night, time_zone="UTC", num_parallel=2))
    for run in directory.points():
        attempt = run.attempt(claim(run, Claimant()))
        write_json(run.result, measure(run).model_dump())
        write_exit(attempt, 0)
    assert StudyTracker(directory.path, f"sqlite:///{runs_dir}/mlflow.db").close().error is None


def _report(study: Path) -> str:
    newest = max((study.parent / "runs").glob("planted-*/nightly.md"), key=os.path.getmtime)
    return newest.read_text(encoding="utf-8")


def _studies(study: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{study.parent}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("planted")
    assert experiment is not None
    return list(
        client.search_runs(
            [experiment.experiment_id],
            "tags.`watershed.study_directory` LIKE '%'",
            order_by=["attributes.start_time ASC"],
        )
    )


def test_the_first_night_has_nothing_to_compare_with(study: Path) -> None:
    """It says so, does not fail, and is history for the next."""
    state = _night(study, 0, {"spread": 0.002})

    assert state.is_completed()
    assert state.message is not None
    assert state.message.startswith("no earlier night")
    (run,) = _studies(study)
    assert run.data.tags["watershed.night"] == "2026-03-27"
    assert run.data.tags["watershed.nightly.verdict"] == "no earlier night"
    assert "no earlier night" in _report(study)


def test_equal_nights_are_the_same(study: Path) -> None:
    """Nights that vary by half a percent, with repeats that do: no regression."""
    for number, noise in ((1, 0.005), (2, -0.004), (3, 0.001)):
        _write_night(study, number, {"spread": 0.002, "night": noise})

    state = _night(study, 4, {"spread": 0.002, "night": 0.003})

    assert state.is_completed()
    assert state.message == "no regression: 4 same"
    dates = ", ".join(f"2026-03-{day}" for day in (30, 29, 28, 27))
    assert f"Compared with: {dates}" in _report(study)


def test_a_night_with_a_failed_point_fails_and_is_not_used(study: Path) -> None:
    """Which point, and why; the state tells it from a regression, and the next night says so."""
    state = _night(study, 5, {"spread": 0.002, "fails_at": 0.002})

    assert state.is_failed()
    assert str(state.message).startswith("points failed: 2 runs have not finished (seed=0")
    assert "no space left on the device" in str(state.message)
    assert "regression" not in str(state.message)


@pytest.mark.slow
def test_a_retried_night_goes_on_in_its_directory(study: Path) -> None:
    """What has finished stays, what has failed is run again; it is the night that it was.

    That it was late is of its first attempt: here three hours and a half, of the second a minute.
    """
    runs_dir = study.parent / "retried" / "runs"
    study = runs_dir.with_name(study.name)
    study.parent.mkdir()
    study.write_text(_STUDY)
    failed = _night(study, 0, {"spread": 0.002, "fails_at": 0.002})
    (path,) = runs_dir.glob("planted-*")
    os.environ["PLANTED"] = json.dumps({"spread": 0.002})
    record = read_night(path)
    assert record is not None
    assert record.began is not None
    flow_run_id = UUID(record.flow_run_id)
    with get_client(sync_client=True) as client:
        due = client.read_flow_run(flow_run_id).expected_start_time
    assert due is not None
    began = due + timedelta(hours=3, minutes=30)
    record = record.model_copy(update={"night": due.astimezone(UTC).date(), "began": began})
    write_night(path, record)

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, AwaitingRetry(), force=True)
        again = run_flow(
            nightly,
            flow_run=client.read_flow_run(flow_run_id),
            parameters={
                "study": str(study),
                "runs_dir": runs_dir,
                "metrics": ["tokens_per_s", "step_s"],
            },
            return_type="state",
        )

    assert failed.is_failed()
    assert isinstance(again, State)
    assert again.is_completed(), again
    assert list(runs_dir.glob("planted-*")) == [path]
    assert read_night(path) == record
    runs = StudyDirectory(path).points()
    assert sorted(len(run.attempts()) for run in runs) == [1, 1, 2, 2]
    assert "Tonight began 3 h" in (path / "nightly.md").read_text(encoding="utf-8")


def test_what_cannot_be_submitted_is_reported_nevertheless(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: the state names it, and the report stands."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/runs/ledger.sqlite")

    monkeypatch.setattr(points, "copy_code", full)
    runs_dir = study.parent / "full"
    planted = load_study(study)

    state = training_run(planted, runs_dir=runs_dir, return_state=True)

    told = "/runs/ledger.sqlite cannot be used: No space left on device; then Retry"
    assert state.is_failed()
    assert state.message == told
    (path,) = runs_dir.glob("planted-*")
    assert (path / "report.md").exists()


def test_a_slower_night_is_a_regression(study: Path) -> None:
    """Planted in one of two points: what, how much, since when, which runs; failed in Prefect."""
    cron = "30 2 * * *"

    state = _night(
        study, 7, {"spread": 0.002, "slow": 1.2, "only_at": 0.002}, cron=cron,
        time_zone="Europe/Berlin",
    )  # fmt: skip

    assert state.is_failed()
    assert str(state.message).startswith("regression: step_s of lr=0.002 +")
    text = _report(study)
    assert "**tokens_per_s** of **lr=0.002**: 1668 instead of 2000, -16.6 %" in text
    assert "**tokens_per_s** of **lr=0.001**" not in text
    assert "Since tonight (commit" in text
    assert "The commit is the same: look at" in text
    assert "2026-04-01 (a point failed)" in text
    assert "Missed: 2026-04-02 (no run" in text
    _assert_runs_to_compare(study, text)
    _assert_stored(study)
    _assert_artifact()


def _assert_runs_to_compare(study: Path, text: str) -> None:
    """The two runs are of the same repeat, tonight and the newest night that was not worse."""
    link = re.search(r"compare-runs\?runs=%5B%22(\w+)%22%2C%22(\w+)%22%5D", text)
    assert link
    client = MlflowClient(f"sqlite:///{study.parent}/runs/mlflow.db")
    before, tonight = (client.get_run(run_id) for run_id in link.groups())
    assert before.data.tags["watershed.night"] == "2026-03-31"
    assert tonight.data.tags["watershed.night"] == "2026-04-03"
    hashes = {run.data.tags["watershed.config_hash"] for run in (before, tonight)}
    assert len(hashes) == 1
    assert tonight.data.tags["watershed.nightly.tokens_per_s"] == "worse"
    assert before.data.tags["watershed.nightly.tokens_per_s"] == "same"


def _assert_stored(study: Path) -> None:
    """The night's run has its verdict, the ratios and the report."""
    run = _studies(study)[-1]
    assert run.data.tags["watershed.nightly.verdict"] == "regression"
    assert run.data.metrics["nightly/tokens_per_s/lr_0.002"] == pytest.approx(1 / 1.2, rel=0.01)
    client = MlflowClient(f"sqlite:///{study.parent}/runs/mlflow.db")
    names = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"nightly.md", "nightly.png", "report.md"} <= names


def _assert_artifact() -> None:
    """Prefect shows the report with its figure."""
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["nightly-planted"])),
            sort=ArtifactSort.CREATED_DESC,
        )
    newest = str(artifacts[0].data)
    assert "night of 2026-04-03: regression" in newest
    assert "](data:image/png;base64," in newest


def test_nights_do_not_overlap(study: Path) -> None:
    """The second one is skipped, which is no failure, and says who runs."""
    with night_lock(study.parent / "runs", "planted", "warm-owl") as holder:
        state = _night(study, 9, {})

    assert holder == ""
    assert state.is_completed()
    assert state.name == "AlreadyRunning"
    assert exit_code(state) == 75
    assert f"runs already: process {os.getpid()} of " in str(state.message)
    assert "flow run warm-owl" in str(state.message)


def test_a_night_whose_study_runs_is_skipped(study: Path) -> None:
    """Somebody has resumed its directory by hand: as good as another night, for the exit code."""
    directory = create_study_directory(
        load_study(study), study.parent / "resumed", datetime.now().astimezone()
    )
    with get_client(sync_client=True) as client:
        begun = client.create_flow_run(nightly)
    record = NightRecord(night=_FIRST, time_zone="UTC", flow_run_id=str(begun.id))
    write_night(directory.path, record)

    with _held_by_another(directory.path) as number:
        state = run_flow(
            nightly,
            flow_run=begun,
            parameters={"study": str(study), "runs_dir": directory.path.parent},
            return_type="state",
        )

    assert isinstance(state, State)
    assert state.name == "AlreadyRunning"
    assert f"{directory.path} is run already by process {number} on " in str(state.message)
    assert exit_code(state) == 75


@contextmanager
def _held_by_another(study_dir: Path) -> Iterator[int]:
    """Hold a study's lock in a process of its own; yield its number."""
    holds = (
        "import sys; from pathlib import Path; from tasks.steps.study_lock import study_lock\n"
        "with study_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(study_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.communicate("")


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"metrics": ["tokens_per_sec"]}, "metrics: 'tokens_per_sec' is unknown (did you mean"),
        ({"time_zone": "Europe/Atlantis"}, "'Europe/Atlantis' is no time zone; use an IANA name"),
        ({"settings": ["steps=0"]}, "steps: "),
    ],
)
def test_faults_are_told_before_anything_runs(
    study: Path, parameters: dict[str, Any], told: str
) -> None:
    """A faulty parameter fails the night, and not as a regression."""
    num_before = len(list((study.parent / "runs").iterdir()))

    state = _night(study, 9, {}, **parameters)

    assert state.is_failed()
    assert exit_code(state) == 2
    assert str(state.message).startswith("configuration: ")
    assert told in str(state.message)
    assert len(list((study.parent / "runs").iterdir())) == num_before


def test_the_nightly_is_deployed_as_it_is_written(server: PrefectServer, tmp_path: Path) -> None:
    """Schedule, time zone, limit, parameters and version come back; runs are scheduled by it."""
    server.ask("/work_pools/", {"name": "watershed", "type": "process"})
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")
    }
    shutil.copy(_ROOT / "prefect.yaml", tmp_path)

    ended = subprocess.run(
        [_PREFECT, "--no-prompt", "deploy", "--name", "nightly-scaling"],
        cwd=_ROOT,
        env=environment | {"PREFECT_API_URL": server.api, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (_ROOT / "prefect.yaml").read_text() == (tmp_path / "prefect.yaml").read_text()
    deployment = server.ask("/deployments/name/nightly/nightly-scaling")
    (schedule,) = deployment["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment["entrypoint"] == "flows.nightly.nightly"
    assert deployment["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(_ROOT)}}
    ]
    assert deployment["parameters"]["time_zone"] == schedule["schedule"]["timezone"]
    assert deployment["tags"] == ["watershed", "nightly"]
    assert deployment["version"]
    assert "{{" not in deployment["version"]
    properties = deployment["parameter_openapi_schema"]["properties"]
    assert set(deployment["parameters"]) <= set(properties)
    assert properties["nights"]["minimum"] == 2
    assert "2 %" in properties["least_effect"]["description"]
    _assert_nights_are_scheduled(server, str(deployment["id"]))
    _assert_missed_nights_are_known(server, str(deployment["id"]))


def _assert_nights_are_scheduled(server: PrefectServer, deployment_id: str) -> None:
    """Prefect's own scheduler makes flow runs, each due at two o'clock in Berlin."""
    wanted = {
        "deployments": {"id": {"any_": [deployment_id]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    deadline_s = time.monotonic() + _SCHEDULED_WITHIN_S
    while not (runs := server.ask("/flow_runs/filter", wanted)):
        assert time.monotonic() < deadline_s, "no flow run was scheduled"
        time.sleep(0.5)
    due = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    berlin = ZoneInfo("Europe/Berlin")
    assert {at.astimezone(berlin).strftime("%H:%M") for at in due} == {"02:00"}


def _assert_missed_nights_are_known(server: PrefectServer, deployment_id: str) -> None:
    """What Prefect has cancelled, because the night before still ran, is told the next night."""
    message = "Deployment concurrency limit reached."
    state = {"type": "CANCELLED", "name": "Cancelled", "message": message}
    path = f"/deployments/{deployment_id}/create_flow_run"
    cancelled = server.ask(path, {"state": state})
    server.ask(path, {"state": state | {"message": "other"}, "parameters": {"study": "tiny.yaml"}})
    # Not tomorrow: from midnight to two a run of the schedule, still to come, is of the same night.
    soon = datetime.now(UTC) + timedelta(seconds=1)
    tonight = "00000000-0000-0000-0000-000000000000"

    schedule = read_schedule(
        deployment_id, tonight, "nightly", soon, cron="", time_zone="Europe/Berlin"
    )

    night = night_of(datetime.fromisoformat(cancelled["created"]), "Europe/Berlin")
    assert [(one.cron, one.timezone) for one in schedule.crons] == [("0 2 * * *", "Europe/Berlin")]
    assert schedule.reasons[night] == f"Cancelled in Prefect: {message}"
