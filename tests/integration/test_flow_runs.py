"""Flow runs started and steered from Prefect: their story, pause, resume, cancel, retry, faults.

One Prefect server, one MLflow server and one worker are shared by all tests; each flow run is a
process of that worker, as it is for who presses the buttons.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from configs.study import Study
from tasks.runtime.run_directory import RunDirectory
from tasks.services.web import prefect_server
from tasks.slurm.liveness import is_alive
from tasks.steps.flow_record import directory_of, flow_record_path
from tasks.tracking.nightly_record import directory_of_night
from tasks.tracking.study_directory import StudyDirectory
from tests.cluster.prefect_server import PrefectServer
from tests.integration.flow_runs import Person, flow_process, worker
from tests.integration.mlflow_server import MlflowServer
from tests.integration.wrapped import ROOT

_PATIENCE_S = 300.0
_STOPPED_WITHIN_S = 10.0
_LONG = 6_000
"""Rounds: some seconds on an idle machine."""
_ENDLESS = 100_000_000


@dataclass(frozen=True)
class Site:
    """Somewhere to start flow runs.

    Attributes:
        directory: Where the worker works.
        server: The Prefect server.
        mlflow: Address of the MLflow server.
        person: Who presses the buttons.
        deployment_id: The deployment to run.
    """

    directory: Path
    server: PrefectServer
    mlflow: str
    person: Person
    deployment_id: str

    def run(self, name: str, rounds: int, grid: dict[str, list[Any]] | None = None) -> str:
        """Start a study of which one point is run at a time; return the flow run's id."""
        study = Study.model_validate(_study(name, rounds, grid))
        parameters = {"study": study.model_dump(mode="json"), "num_parallel": 1}
        return self.person.run(self.deployment_id, parameters | {"runs_dir": str(self.runs_dir)})

    @property
    def runs_dir(self) -> Path:
        """Directory of all runs."""
        return self.directory / "runs"

    def begun(
        self, flow_run_id: str, find: Callable[[str, Path], Path | None] = directory_of
    ) -> tuple[StudyDirectory, RunDirectory]:
        """Wait until the first point of a flow run computes; return study and point."""
        _until(lambda: find(flow_run_id, self.runs_dir))
        path = find(flow_run_id, self.runs_dir)
        assert path is not None
        study = StudyDirectory(path)
        run = study.points()[0]
        _until(lambda: run.journal.exists() and run.journal.stat().st_size)
        return study, run


def _study(name: str, rounds: int, grid: dict[str, list[Any]] | None = None) -> dict[str, Any]:
    """Return a study of tiny rounds."""
    experiment = {
        "workers": 2,
        "rounds": rounds,
        "evaluate_every": 100,
        "model": {"name": "quadratic", "centres": [0, 100]},
        "algorithm": {"collect": 2},
        "worker": {"lr": 0.2},
        "arrivals": "synchronous",
    }
    return {"name": name, "experiment": experiment, "grid": grid or {}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[Site]:
    """Both servers, a worker and a deployment."""
    directory = tmp_path_factory.mktemp("site")
    prefect, mlflow = PrefectServer(directory, used_home), MlflowServer(directory)
    hidden = ("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_", "SLURM_")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    try:
        with ThreadPoolExecutor() as starting:
            list(starting.map(lambda server: server.start(), (prefect, mlflow)))
        person = Person(prefect.api)
        deployment_id = person.deploy("federated-study", "flows.federated.federated_study")
        environment = inherited | {
            "HOME": str(directory),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": mlflow.uri,
        }
        with worker(prefect.api, directory, environment):
            yield Site(directory, prefect, mlflow.uri, person, deployment_id)
    finally:
        prefect.stop()
        mlflow.stop()
        _kill_jobs(directory / "runs")


def _kill_jobs(runs_dir: Path) -> None:
    """Leave no job behind if a test has failed: each has a session of its own."""
    for path in runs_dir.glob("*/points/*/attempts/*/started.json"):
        if is_alive(RunDirectory(path.parents[2])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


def _until(condition: Callable[[], object], limit_s: float = _PATIENCE_S) -> float:
    """Wait for a condition; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "it did not come to that"
        time.sleep(0.05)
    return time.monotonic() - began


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_flow_run_tells_its_story_and_a_retry_keeps_what_has_finished(site: Site) -> None:
    """Where each job is, how far, its curves, why it failed; the report is there after a failure.

    Steps of 3.5 times the inverse curvature lead away, so the second point diverges.
    """
    person = site.person
    flow_run_id = site.run("story", rounds=300, grid={"worker.lr": [0.2, 3.5]})
    ended = person.wait(flow_run_id)
    told = person.log(flow_run_id)
    tasks = person.task_runs(flow_run_id)

    assert ended["state_name"] == "Failed"
    assert ended["state"]["message"].startswith("1 of 2 points failed. lr=3.5: ")
    assert tasks["lr=0.2"]["state"]["message"] == "300 rounds"
    assert tasks["lr=3.5"]["state_name"] == "Failed"
    assert tasks["lr=3.5"]["state"]["message"].startswith("[diverged] the training diverged: ")
    assert any(
        line.startswith("process ") and line.endswith(" on 1 core: running") for line in told
    )
    assert "waits until fewer than 1 jobs run here" in told
    shares = {one["description"]: one["data"] for one in person.artifacts(flow_run_id, "progress")}
    assert any(text.startswith("round 300 of 300: ") for text in shares)
    texts = {one["key"]: one["data"] for one in person.artifacts(flow_run_id, "markdown")}
    assert "data:image/png;base64," in texts["story"]
    assert texts["mlflow-story"].startswith(f"[Compare in MLflow]({site.mlflow}/#/experiments/")
    assert f"| lr=3.5 | [{site.mlflow}/#/experiments/" in texts["mlflow-runs-story"]
    assert "**What to do:** Lower the learning rates" in texts["why-story-001-lr-3-5"]

    person.retry(flow_run_id)
    _until(lambda: person.flow_run(flow_run_id)["run_count"] == 2)
    again = person.wait(flow_run_id)

    (path,) = site.runs_dir.glob("story-*")
    assert again["state_name"] == "Failed"
    assert [len(run.attempts()) for run in StudyDirectory(path).points()] == [1, 2]


def test_flow_runs_that_are_asked_for_at_once_are_all_accepted(site: Site) -> None:
    """Each at the first request: the pages of Prefect do not ask again when they meet a 503."""
    server = replace(prefect_server(site.server.api, {}), pauses_s=())
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}

    def run(number: int) -> str:
        path = f"/deployments/{site.deployment_id}/create_flow_run"
        asked_for = {"name": f"later-{number}", "state": later}
        return str(server.ask(path, asked_for, timeout_s=60)["id"])

    with ThreadPoolExecutor(8) as people:
        flow_run_ids = list(people.map(run, range(80)))

    assert len(set(flow_run_ids)) == 80


@pytest.mark.slow
def test_all_servers_get_their_workers_though_few_points_are_shown_at_a_time(site: Site) -> None:
    """Of forty that run at once; what the tasks show of each comes in its turn, to the end."""
    num_servers = 40
    command = [sys.executable, "-m", "tests.integration.many_servers"]

    ended = subprocess.run(
        [*command, str(site.directory / "many"), str(num_servers), "60"],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": site.server.api, "HOME": str(site.directory)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])

    def are_told() -> bool:  # the server takes note a little later
        tasks = site.person.all_task_runs(told["flow_run_id"])
        return len(tasks) == 5 * num_servers and {one["state_type"] for one in tasks} == {
            "COMPLETED"
        }

    assert told["num_served"] == num_servers
    _until(are_told)
    names = Counter(one["name"] for one in site.person.all_task_runs(told["flow_run_id"]))
    shown = ("seed=7", "workers of seed=7", "rounds of seed=7", "rounds 1 to 1", "rounds 2 to 2")
    assert [names[name] for name in shown] == [1, 1, 1, num_servers, num_servers]


@pytest.mark.slow
def test_a_retry_that_does_not_find_its_directory_runs_nothing_twice(site: Site) -> None:
    """Neither when the record there is of another version, nor when it is gone."""
    person = site.person
    flow_run_id = site.run("lost", rounds=300)
    person.wait(flow_run_id, "Completed")
    (path,) = site.runs_dir.glob("lost-*")
    record = flow_record_path(path)

    def retried(run_count: int) -> str:
        person.retry(flow_run_id)
        _until(lambda: person.flow_run(flow_run_id)["run_count"] == run_count)
        return str(person.wait(flow_run_id, "Failed")["state"]["message"])

    record.write_text(record.read_text().replace("comparison", "since_then"))
    unreadable = retried(2)
    record.unlink()
    gone = retried(3)

    assert unreadable.startswith(f"{record} has the field 'since_then'")
    assert unreadable.endswith(f"in a new flow run whose study_dir is {path}")
    assert gone.startswith("runs_dir: this flow run has run jobs before")
    assert list(site.runs_dir.glob("lost-*")) == [path]


@pytest.mark.slow
def test_a_paused_study_frees_its_cores_and_resumes_from_its_checkpoint(site: Site) -> None:
    """Pause stops the job and its process; Resume goes on in the same directory, to the end."""
    person = site.person
    flow_run_id = site.run("pause", rounds=_LONG)
    study, run = site.begun(flow_run_id)
    pid = flow_process(flow_run_id)

    person.pause(flow_run_id)
    stopped_s = _until(run.result.exists)
    _until(lambda: _is_gone(pid))
    paused = person.flow_run(flow_run_id)
    was_alive = is_alive(run) or is_alive(RunDirectory(study.path))
    person.resume(flow_run_id)
    ended = person.wait(flow_run_id, "Completed")

    result = run.read_result()
    assert stopped_s < _STOPPED_WITHIN_S
    assert (paused["state_name"], was_alive) == ("Suspended", False)
    assert "Resume continues from their checkpoints until " in "\n".join(person.log(flow_run_id))
    assert ended["state"]["message"] == "1 points finished"
    assert result is not None
    assert (result.status, result.steps, len(run.attempts())) == ("finished", _LONG, 2)
    assert "continues from round" in run.stdout.read_text()
    assert list(site.runs_dir.glob("pause-*")) == [study.path]


@pytest.mark.slow
def test_a_killed_flow_leaves_a_job_that_its_retry_follows_and_cancel_stops(site: Site) -> None:
    """The job outlives its flow, is not run twice, and ends within ten seconds when cancelled."""
    person = site.person
    flow_run_id = site.run("kill", rounds=_ENDLESS)
    study, run = site.begun(flow_run_id)

    os.kill(flow_process(flow_run_id), signal.SIGKILL)
    person.wait(flow_run_id, "Crashed")
    survived = is_alive(run), is_alive(RunDirectory(study.path))
    person.retry(flow_run_id)
    left = "which an earlier flow has left: running"
    _until(lambda: any(left in line for line in person.log(flow_run_id)))

    states = [task["state_name"] for task in person.all_task_runs(flow_run_id)]
    person.cancel(flow_run_id)
    stopped_s = _until(lambda: run.read_result() and not is_alive(run))
    ended = person.wait(flow_run_id, "Cancelled")

    result = run.read_result()
    assert survived == (True, False)
    assert states == ["Crashed", "Running"]
    assert stopped_s < _STOPPED_WITHIN_S
    assert ended["state"]["message"] == "Flow run was cancelled successfully."
    assert result is not None
    assert (result.status, len(run.attempts())) == ("interrupted", 1)


@pytest.mark.slow
def test_a_paused_night_resumes_in_its_directory(site: Site) -> None:
    """Pause stops the job of the study that the night runs; Resume goes on with that study."""
    person = site.person
    deployment_id = person.deploy("nightly", "flows.nightly.nightly")
    file = site.directory / "dark.yaml"
    file.write_text(json.dumps(_study("dark", _LONG)))
    parameters = {"study": str(file), "runs_dir": str(site.runs_dir), "num_parallel": 1}
    flow_run_id = person.run(deployment_id, parameters)
    study, run = site.begun(flow_run_id, directory_of_night)
    pid = flow_process(flow_run_id)

    person.pause(flow_run_id)
    stopped_s = _until(run.result.exists)
    _until(lambda: _is_gone(pid))
    paused = person.flow_run(flow_run_id)
    was_alive = is_alive(run)
    person.resume(flow_run_id)
    ended = person.wait(flow_run_id, "Completed")

    result = run.read_result()
    assert stopped_s < _STOPPED_WITHIN_S
    assert (paused["state_name"], was_alive) == ("Suspended", False)
    assert ended["state"]["message"].startswith("no earlier night")
    assert result is not None
    assert (result.status, len(run.attempts())) == ("finished", 2)
    assert list(site.runs_dir.glob("dark-*")) == [study.path]


@pytest.mark.slow
def test_a_re_run_is_a_study_of_its_own(site: Site) -> None:
    """It has its own directory; cancelling one of the two leaves the other's job alone."""
    person = site.person
    flow_run_ids = [site.run("twice", rounds=_ENDLESS) for _ in range(2)]
    (first, first_run), (second, second_run) = map(site.begun, flow_run_ids)

    person.cancel(flow_run_ids[0])
    person.wait(flow_run_ids[0], "Cancelled")
    goes_on = not is_alive(first_run) and is_alive(second_run)
    person.cancel(flow_run_ids[1])
    person.wait(flow_run_ids[1], "Cancelled")

    assert first.path != second.path
    assert goes_on
    assert not is_alive(second_run)


@pytest.mark.slow
def test_a_study_goes_on_without_the_server_and_tells_it_its_end(site: Site) -> None:
    """The server is away for a minute in which one point ends and another begins."""
    person = site.person
    flow_run_id = site.run("outage", rounds=_LONG, grid={"seed": [1, 2]})
    study, run = site.begun(flow_run_id)

    site.server.stop()
    _until(lambda: (result := run.read_result()) and result.status == "finished")
    time.sleep(60)
    site.server.start()
    ended = person.wait(flow_run_id, timeout_s=400)

    results = [point.read_result() for point in study.points()]
    assert ended["state_name"] == "Completed"
    assert [result and result.status for result in results] == ["finished", "finished"]
