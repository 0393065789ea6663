"""Servers of the site's: a Prefect with a password, known from a profile alone, and an MLflow.

`watershed up --external` serves them until a study has ended; `watershed deploy` makes a pool of
type slurm there; and a fresh clone is deployed by Prefect's own commands.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks.services.errors import UnreachableError
from tasks.services.processes import command_of, descendants, has_variable
from tasks.services.web import prefect_server
from tests.cluster.prefect_server import PrefectServer
from tests.integration.mlflow_server import MlflowServer
from tests.integration.up_process import (
    EXPERIMENT,
    RUN_S,
    Up,
    start_up,
    stop_up,
    succeed,
    user_environment,
    watershed,
)

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_LOGIN = "lab:0123456789abcdef"
_STUDY = {"name": "middle", "experiment": EXPERIMENT}


@dataclass(frozen=True)
class Site:
    """The servers, and a home whose Prefect profile knows the one with the password.

    Attributes:
        prefect: Prefect.
        mlflow: MLflow.
        home: The home.
    """

    prefect: PrefectServer
    mlflow: MlflowServer
    home: Path

    def ask(self, path: str, body: object = None) -> Any:
        """Ask Prefect, with the password."""
        server = prefect_server(self.prefect.api, {"PREFECT_API_AUTH_STRING": _LOGIN})
        return server.ask(path, body, timeout_s=60)

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Press *Run*; return the id of the flow run."""
        found = self.ask(f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.ask(f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the end of a flow run."""
        deadline = time.monotonic() + RUN_S
        run: dict[str, Any] = {"state_type": "", "state": "not known"}
        while True:
            with contextlib.suppress(UnreachableError):  # on a machine with other work, for a while
                run = self.ask(f"/flow_runs/{run_id}")
            if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
                return run
            assert time.monotonic() < deadline, run["state"]
            time.sleep(0.5)

    def environment(self, **own: str) -> dict[str, str]:
        """The environment of a user who has this home, and no variable of Prefect."""
        return user_environment(HOME=str(self.home), NO_COLOR="1", **own)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[Site]:
    """Both servers, up for the tests of this file."""
    directory = tmp_path_factory.mktemp("site")
    prefect, mlflow = PrefectServer(directory, used_home), MlflowServer(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", _LOGIN)
        prefect.start()
    mlflow.start()
    profiles = directory / "home" / ".prefect" / "profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text(
        f'active = "site"\n[profiles.site]\nPREFECT_API_URL = "{prefect.api}"\n'
        f'PREFECT_API_AUTH_STRING = "{_LOGIN}"\n'
    )
    yield Site(prefect, mlflow, directory / "home")
    prefect.stop()
    mlflow.stop()


@contextmanager
def _external(site: Site, directory: Path, **own: str) -> Iterator[Up]:
    up = start_up(directory, "--external", HOME=str(site.home), **own)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            stop_up(up)


def test_external_servers_are_served_until_a_study_has_ended(site: Site, tmp_path: Path) -> None:
    """With the profile's address and password; the flows have the user's own variables."""
    own = {"MLFLOW_TRACKING_URI": site.mlflow.uri, "PGPASSWORD": "of-a-flow"}
    with _external(site, tmp_path, **own) as up:
        run = site.ended(site.run("federated-study/federated-study", {"study": _STUDY}))
        workers = [p for p in descendants(up.process.pid) if "worker start" in command_of(p)]
        has_password = [has_variable(pid, "PGPASSWORD", "of-a-flow") for pid in workers]
        again = watershed("up", "--external", "--data", up.data, HOME=str(site.home), **own)
        other = tmp_path / "other"
        beside = watershed("up", "--external", "--data", other, HOME=str(site.home), **own)
        state = up.state
        code = stop_up(up)

    assert run["state_type"] == "COMPLETED", run["state"]
    assert has_password
    assert all(has_password)
    assert site.prefect.api.removesuffix("/api") in up.output
    assert "is up already" in again.stdout
    assert beside.returncode == 2  # a flow run that is retried would not find its study there
    assert f"served already, by {state['worker']}" in beside.stderr
    assert (state["is_external"], state["mlflow"]) == (True, site.mlflow.uri)
    (study,) = up.data.glob("middle-*")
    assert not (up.data / "mlflow.db").exists()
    client = MlflowClient(site.mlflow.uri)
    experiment = client.get_experiment_by_name("middle")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert study.name in {one.info.run_name for one in runs}
    assert code == 0
    assert site.ask("/health") is True  # they are not ours to stop
    files = [path for path in up.data.rglob("*") if path.is_file()]
    assert not [path for path in files if _LOGIN.encode() in path.read_bytes()]


def test_what_a_power_cut_has_ended_is_told_to_the_site(site: Site, tmp_path: Path) -> None:
    """Prefect would show the flow run as running for ever."""
    own = {"MLFLOW_TRACKING_URI": site.mlflow.uri}
    endless = {"name": "endless", "experiment": EXPERIMENT | {"rounds": 50_000_000}}
    with _external(site, tmp_path, **own) as up:
        run_id = site.run("federated-study/federated-study", {"study": endless})
        note = up.data / "flow-runs" / f"{run_id}.json"
        deadline = time.monotonic() + RUN_S
        while not (note.exists() and list(up.data.glob("endless-*/flow.json"))):
            assert time.monotonic() < deadline, up.log("worker")
            time.sleep(0.2)
        for pid in [*descendants(up.process.pid), up.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        up.process.wait()
    before = site.ask(f"/flow_runs/{run_id}")
    with _external(site, tmp_path, **own) as up:
        after = site.ask(f"/flow_runs/{run_id}")
        told = up.output

    assert before["state_type"] == "RUNNING"
    assert after["state_type"] == "CRASHED"
    assert "its process is gone" in after["state"]["message"]
    assert f"flow runs that had lost their processes: {after['name']}" in told


def test_a_password_that_is_refused_is_told_with_its_places(site: Site, tmp_path: Path) -> None:
    """A variable goes before the profile, in `up --external` and in `deploy`."""
    own = {"HOME": str(site.home), "PREFECT_API_AUTH_STRING": "lab:wrong"}

    deployed = watershed("deploy", "--data", tmp_path, **own)
    own["MLFLOW_TRACKING_URI"] = site.mlflow.uri
    up = watershed("up", "--external", "--data", tmp_path, **own)

    assert (deployed.returncode, up.returncode) == (1, 2)
    for ended in (deployed, up):
        assert f"the Prefect server at {site.prefect.api} answers 401" in ended.stderr
        assert "PREFECT_API_AUTH_STRING (environment, or Prefect profile)" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_deployments_in_a_pool_of_type_slurm(site: Site, tmp_path: Path) -> None:
    """The pool has the form of a job's wishes; the nights in it are not scheduled twice."""
    ended = watershed(
        *("deploy", "--data", tmp_path, "--pool", "hpc", "--pool-type", "slurm"),
        HOME=str(site.home),
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"5 deployments at {site.prefect.api}, pool hpc (slurm)." in ended.stdout
    assert "prefect worker start --pool hpc" in ended.stdout
    pool = site.ask("/work_pools/hpc")
    assert pool["type"] == "slurm"
    form = pool["base_job_template"]["variables"]["properties"]
    assert {"partition", "time_limit", "container", "secrets_file"} <= set(form)
    nightly = site.ask("/deployments/name/nightly/nightly-scaling-hpc")
    assert nightly["work_pool_name"] == "hpc"
    assert [one["active"] for one in nightly["schedules"]] == [False]
    assert nightly["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(_ROOT)}}
    ]


@pytest.mark.skipif(not (_ROOT / ".git").exists(), reason="this is no clone")
def test_a_fresh_clone_is_deployed_by_prefects_own_commands(site: Site, tmp_path: Path) -> None:
    """Those at the head of prefect.yaml; the worker then runs the code of the clone."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(clone)], check=True)
    environment = site.environment(PYTHONPATH=str(clone), DO_NOT_TRACK="1")

    def prefect(*arguments: str) -> None:
        program = (sys.executable, "-m", "prefect")
        succeed(*program, *arguments, environment=environment, directory=clone)

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=clone, text=True).strip()

    head = (clone / "prefect.yaml").read_text().split("name: watershed")[0]
    for command in ("work-pool create --type process watershed", "--no-prompt deploy --all"):
        assert f"#   prefect {command}" in head
    if not site.ask("/work_pools/filter", {"work_pools": {"name": {"any_": ["watershed"]}}}):
        prefect("work-pool", "create", "--type", "process", "watershed")
    prefect("--no-prompt", "deploy", "--all")
    deployed = site.ask("/deployments/name/plan-training/plan-training")
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "watershed"],
            cwd=tmp_path,
            env=environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        run = site.ended(site.run("plan-training/plan-training", {}))
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    assert git("status", "--porcelain") == ""
    assert deployed["version"] == git("describe", "--always", "--dirty")
    assert deployed["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(clone)}}
    ]
    assert run["state_type"] == "COMPLETED", (tmp_path / "worker.log").read_text()
