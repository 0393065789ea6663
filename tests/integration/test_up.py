"""`watershed up` as a person uses it: real servers, started once for all tests of this file.

What the tests in the browser do not see is in the fast set; the rest is slow.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tasks.services.processes import all_processes, command_of, descendants, has_variable
from tests.fakes.served import FakeCluster
from tests.integration.postgres_server import PASSWORD, PostgresServer, here
from tests.integration.up_process import EXPERIMENT, RUN_S, STOP_S, Up, start_up, stop_up, watershed

_ROUNDS = 2_000
"""Of a job that has something to do still when it is found."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for the tests of this file; the last of them ends it."""
    started = start_up(tmp_path_factory.mktemp("up"))
    yield started
    if started.process.poll() is None:
        stop_up(started)


@pytest.mark.slow
def test_it_prints_three_addresses_that_answer(up: Up) -> None:
    """Prefect, MLflow, and the pool with the worker that serves it, which Prefect knows."""
    state = up.state
    for address in (state["prefect_ui"], state["mlflow"]):
        assert address in up.output
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310  our own server
            assert b"<html" in answer.read().lower()
    workers = up.ask("/work_pools/watershed/workers/filter", {})

    assert f"{state['prefect_ui']}/work-pools/work-pool/watershed" in up.output
    assert [(one["name"], one["status"]) for one in workers] == [(state["worker"], "ONLINE")]
    assert state["worker"].startswith(f"{socket.gethostname()}:")


@pytest.mark.slow
def test_all_deployments_are_there(up: Up) -> None:
    """With descriptions, tags and a version; the nightly has its schedule and its limit."""
    found = {one["name"]: one for one in up.ask("/deployments/filter", {})}

    assert set(found) == {
        *("federated-study", "training-run", "scaling-study", "nightly-scaling", "plan-training")
    }
    for one in found.values():
        assert one["description"]
        assert one["version"]
        assert "watershed" in one["tags"]
        assert one["work_pool_name"] == "watershed"
    assert found["nightly-scaling"]["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    assert found["nightly-scaling"]["global_concurrency_limit"]["limit"] == 1


@pytest.mark.slow
def test_a_second_up_finds_the_first(up: Up) -> None:
    """It prints the addresses of the first, and starts nothing."""
    ended = watershed("up", "--data", up.data)

    assert ended.returncode == 0
    assert f"is up already in {up.data}: process {up.process.pid}" in ended.stdout
    assert up.state["prefect_ui"] in ended.stdout
    assert up.state["mlflow"] in ended.stdout


@pytest.mark.slow
def test_ports_in_use_are_told_with_their_holders(up: Up, tmp_path: Path) -> None:
    """Another data directory, the same port: it is said who has it."""
    port = up.state["prefect_ui"].rpartition(":")[2]

    ended = watershed("up", "--data", tmp_path, "--prefect-port", port, "--mlflow-port", "0")

    assert ended.returncode == 2
    assert f"port {port} is in use by process " in ended.stderr
    assert "prefect server start" in ended.stderr


@pytest.mark.slow
def test_a_study_from_the_browser_runs_in_the_data_directory(up: Up) -> None:
    """The worker runs it, MLflow has it, its figures are beside those of other commands."""
    run = up.wait_for(up.start_study(), "COMPLETED", "FAILED", "CRASHED")

    assert run["state_type"] == "COMPLETED", f"{run['state']}\n{up.log('worker')}"
    (report,) = up.data.glob("middle-*/report.md")
    record = json.loads((report.parent / "flow.json").read_text())
    assert record["flow_run_id"] == run["id"]
    assert record["tracking_uri"] == up.state["mlflow"]
    assert not record["tracking_error"]
    shown = watershed("show", "middle", "--runs-dir", up.data)
    assert f"\nCompare in MLflow {up.state['mlflow']}/#/experiments/" in shown.stdout
    assert f"\nPrefect           {up.state['prefect_ui']}/runs/flow-run/{run['id']}" in shown.stdout


@pytest.mark.slow
def test_a_page_of_the_web_can_neither_change_anything_nor_read_a_token(up: Up) -> None:
    """Even as a form sends it, which no browser asks about before; while our own commands can."""
    api = up.state["prefect_api"]
    page = {"Origin": "http://page.example"}
    ours = {"Origin": up.state["prefect_ui"]}
    form = page | {"Content-Type": "text/plain"}

    refused, _ = _answer(f"{api}/work_pools/", form, b'{"name": "theirs", "type": "process"}')
    _, read_by_page = _answer(f"{api}/csrf-token?client=page", page)
    _, read_by_ours = _answer(f"{api}/csrf-token?client=ours", ours)
    foreign, _ = _answer(f"{up.state['mlflow']}/api/2.0/mlflow/experiments/create", form, b"{}")

    assert (refused, foreign) == (403, 403)
    assert "access-control-allow-origin" not in read_by_page
    assert read_by_ours["access-control-allow-origin"] == up.state["prefect_ui"]
    up.ask("/work_pools/", {"name": "ours", "type": "process"})
    pools = {one["name"] for one in up.ask("/work_pools/filter", {})}
    assert "ours" in pools
    assert "theirs" not in pools


def _answer(
    url: str, headers: Mapping[str, str], body: bytes | None = None
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request as a browser sends it."""
    request = urllib.request.Request(url, body, dict(headers))  # noqa: S310  our own server
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  our own server
            return answer.status, _lower(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _lower(error.headers)


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


@pytest.mark.slow
def test_two_machines_do_not_serve_one_pool(up: Up) -> None:
    """With a worker of another machine at the pool: who it is, and what to do."""
    up.ask("/work_pools/", {"name": "shared", "type": "process"})
    up.ask("/work_pools/shared/workers/heartbeat", {"name": "elsewhere:watershed-123456"})

    ended = watershed(
        *("up", "--external", "--pool", "shared", "--data", up.data.parent / "other"),
        PREFECT_API_URL=up.state["prefect_api"],
        MLFLOW_TRACKING_URI=up.state["mlflow"],
    )

    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "served already, by elsewhere:watershed-123456" in ended.stderr
    assert "--pool watershed-" in ended.stderr


@pytest.mark.slow
def test_a_deployment_in_a_pool_of_ones_own(up: Up) -> None:
    """The pool is made, and the deployment stands beside that of the default pool."""
    ended = watershed("deploy", "--data", up.data, "--pool", "mine", "--name", "plan-training")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = up.ask("/deployments/name/plan-training/plan-training-mine")
    assert found["work_pool_name"] == "mine"
    assert up.ask("/work_pools/mine")["type"] == "process"
    assert up.ask("/deployments/name/plan-training/plan-training")["work_pool_name"] == "watershed"


def _started_job(up: Up) -> str:
    """Start a study without end, and wait until its job runs; return the id of the flow run."""
    run_id = up.start_study(rounds=50_000_000)
    up.wait_for(run_id, "RUNNING")
    deadline = time.monotonic() + RUN_S
    while not any("simulate_job" in command_of(pid) for pid in descendants(up.process.pid)):
        assert time.monotonic() < deadline, up.log("worker")
        time.sleep(0.5)
    return run_id


@pytest.mark.slow
def test_ctrl_c_stops_all_and_running_flows_can_be_continued(up: Up) -> None:
    """The flow run stops its jobs and says so; no process is left; Prefect's database knows it."""
    run_id = _started_job(up)
    born = descendants(up.process.pid)

    code = stop_up(up)

    assert code == 0, up.output
    assert up.output.rstrip().endswith("All is stopped.")
    assert not (up.data / "services.json").exists()
    left = [pid for pid in born if command_of(pid)]
    ours = [p for p in all_processes() if has_variable(p, "WATERSHED_RUNS_DIR", str(up.data))]
    assert [command_of(pid) for pid in {*left, *ours}] == []
    with closing(sqlite3.connect(up.data / "prefect" / "prefect.db")) as database:
        query = "SELECT state_type FROM flow_run WHERE replace(id, '-', '') = ?"
        assert database.execute(query, [run_id.replace("-", "")]).fetchall() == [("CANCELLED",)]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """A fake Slurm, in a directory with a short path for its socket."""
    directory = Path(tempfile.mkdtemp(prefix="up-"))
    with FakeCluster(directory) as running:
        yield running
    shutil.rmtree(directory)


@pytest.mark.slow
def test_sigterm_hands_a_study_on_slurm_over_to_the_next_up(
    cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its job goes on while nobody serves, the flow run is not cancelled, and the job runs once."""
    directory = tmp_path_factory.mktemp("up-handover")
    own = {**cluster.environment, "WATERSHED_STATE_DIR": str(directory / "state")}
    first = start_up(directory, **own)
    run_id = first.start_study({"kind": "slurm", "partition": "batch"}, rounds=_ROUNDS)
    job, *_ = _wait_for(lambda: _simulations(first.data), first)
    os.kill(job, signal.SIGSTOP)  # it is at work, and stays so

    code = stop_up(first, signal.SIGTERM)
    last_words = first.output
    states = _states_on_disk(first.data, run_id)
    still = _simulations(first.data)
    again = start_up(directory, **own)
    goes_on = again.wait_for(run_id, "RUNNING")
    os.kill(job, signal.SIGCONT)
    run = again.wait_for(run_id, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    log = again.output
    stop_up(again)

    assert code == 0
    assert f"handed over to the next `up` with {first.data}: {run['name']};" in last_words
    assert states == ("CRASHED", "handed over")
    assert job in still
    assert f"flow run {run['name']} goes on where" in log
    assert goes_on["run_count"] == 2
    assert run["state_type"] == "COMPLETED", run["state"]
    (study,) = first.data.glob("middle-*")
    assert len(list(study.glob("points/*/attempts/*"))) == 1
    called = [call.command for call in cluster.calls()]
    assert (called.count("sbatch"), called.count("scancel")) == (1, 0)


def _simulations(data: Path) -> list[int]:
    """The processes of jobs in a data directory, the eldest first; one may have forked."""
    parts = ("simulate_job", str(data))
    return [pid for pid in all_processes() if all(part in command_of(pid) for part in parts)]


def _wait_for(ask: Callable[[], list[int]], up: Up) -> list[int]:
    deadline = time.monotonic() + RUN_S
    while not (found := ask()):
        assert time.monotonic() < deadline, up.log("worker")
        time.sleep(0.5)
    return found


def _states_on_disk(data: Path, run_id: str) -> tuple[str, str]:
    """Type of a flow run's state, and how its message begins, where no server is up."""
    with closing(sqlite3.connect(data / "prefect" / "prefect.db")) as database:
        query = (
            "SELECT state.type, state.message FROM flow_run JOIN flow_run_state AS state "
            "ON state.id = flow_run.state_id WHERE replace(flow_run.id, '-', '') = ?"
        )
        ((kind, message),) = database.execute(query, [run_id.replace("-", "")]).fetchall()
    return kind, message.partition(":")[0]


@pytest.mark.slow
def test_killed_with_kill_9_it_leaves_nothing_and_the_next_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The keepers stop all in order; nobody has cancelled the flow run, so it is continued."""
    first = start_up(tmp_path_factory.mktemp("up-killed"))
    run_id = _started_job(first)
    born = descendants(first.process.pid)

    first.process.kill()
    first.process.wait()
    deadline = time.monotonic() + STOP_S
    while left := [command_of(pid) for pid in born if command_of(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    again = start_up(first.data.parent)
    run = again.wait_for(run_id, "RUNNING")
    told = again.output
    code = stop_up(again)

    assert f"flow run {run['name']} goes on where" in told
    assert run["run_count"] == 2
    assert len(list(again.data.glob("middle-*"))) == 1
    assert code == 0


@pytest.mark.slow
def test_with_a_login_others_are_kept_out_and_all_works(tmp_path_factory: Any) -> None:
    """Flow runs of the worker and of a command, MLflow; and nothing is readable by others."""
    directory = tmp_path_factory.mktemp("up-login")
    up = start_up(directory, WATERSHED_LOGIN="1")
    login = up.login
    assert login is not None
    try:
        stranger = [
            _answer(url, {})[0]
            for url in (
                f"{up.state['prefect_api']}/work_pools/watershed",
                f"{up.state['prefect_api']}/csrf-token?client=stranger",
                f"{up.state['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1",
                f"{up.state['mlflow']}/",
            )
        ]
        run = up.wait_for(up.start_study(), "COMPLETED", "FAILED", "CRASHED")
        readable = [path for path in (up.data, *up.data.rglob("*")) if _is_readable(path)]
        study = directory / "typed.yaml"
        study.write_text(json.dumps({"name": "typed", "experiment": EXPERIMENT}))
        typed = watershed("run", study, "--runs-dir", up.data)
        found = up.ask_mlflow("/api/2.0/mlflow/experiments/search?max_results=9")
        deployed = watershed("deploy", "--data", up.data, "--name", "plan-training")
        second = watershed("up", "--data", up.data)
        commands = " ".join(map(command_of, descendants(up.process.pid)))
    finally:
        stop_up(up)

    assert stranger == [401] * 4
    assert run["state_type"] == "COMPLETED", f"{run['state']}\n{up.log('worker')}"
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert {"middle", "typed"} <= {one["name"] for one in found["experiments"]}
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert f"of {up.data}/login.txt" in second.stdout
    shown = f"{up.output}{second.stdout}{typed.stdout}{typed.stderr}{commands}"
    assert login.password not in shown
    files = [path for path in up.data.rglob("*") if path.is_file()]
    with_password = [path for path in files if login.password.encode() in path.read_bytes()]
    assert with_password == [up.data / "login.txt"]
    assert readable == []


def _is_readable(path: Path) -> bool:
    """Whether others can do anything with a path; a file of SQLite may have gone meanwhile."""
    return path.exists() and path.stat().st_mode & 0o077 != 0


@pytest.mark.slow
def test_both_servers_keep_their_data_in_postgresql(tmp_path_factory: Any) -> None:
    """Tables of both are there, a study runs, and no file or command line has the password."""
    here().carry_out()
    database = PostgresServer()
    database.start(("lab_prefect",))
    url = f"postgresql://lab@127.0.0.1:{database.port}/lab"
    directory = tmp_path_factory.mktemp("up-pg")
    try:
        missing = watershed("up", "--data", directory, "--database", url, PGPASSWORD=PASSWORD)
        assert missing.returncode == 2
        assert "createdb -h 127.0.0.1" in missing.stderr
        wrong = watershed("up", "--data", directory, "--database", url, PGPASSWORD="no")
        assert "password authentication failed" in wrong.stderr

        database.create("lab_mlflow")
        up = start_up(directory, "--database", url, PGPASSWORD=PASSWORD)
        run = up.wait_for(up.start_study(), "COMPLETED", "FAILED", "CRASHED")
        commands = " ".join(map(command_of, descendants(up.process.pid)))
        stop_up(up)
    finally:
        database.stop()

    assert run["state_type"] == "COMPLETED"
    assert PASSWORD not in commands
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    assert not (up.data / "mlflow.db").exists()
    assert not (up.data / "prefect" / "prefect.db").exists()
