"""Where a study's files are, and how to open it in MLflow and Prefect."""

import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.pointers import pointers, program
from flows.running import say_how_to_resume
from tasks.services.ports import any_port
from tasks.services.processes import boot_id
from tasks.services.state import Services, claimed, write_services
from tasks.steps.flow_record import FlowRecord
from tasks.tracking.study_directory import StudyDirectory


def _pointers(
    tmp_path: Path, uri: str, environment: dict[str, str] | None = None
) -> dict[str, str]:
    run = tmp_path / "runs" / "digits-1"
    run.mkdir(parents=True, exist_ok=True)
    (run / "curves.png").touch()
    record = FlowRecord(flow_run_id="f1", tracking_uri=uri, comparison="/#/compare-runs?runs=x")
    told: dict[str, str] = {}
    label = ""
    user = {"HOME": str(tmp_path)} | (environment or {})
    for new_label, text in pointers(StudyDirectory(run), record, user):
        label = new_label or label
        told[label] = f"{told[label]}\n{text}" if label in told else text
    return told


@pytest.fixture(autouse=True)
def _in_a_directory_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATERSHED_RUNS_DIR", raising=False)


@contextmanager
def _up(runs_dir: Path) -> Iterator[None]:
    """A runs directory in which `up` is up."""
    runs_dir.mkdir(exist_ok=True)
    services = Services(
        phase="up",
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        started=datetime.now(UTC),
        prefect_api="http://127.0.0.1:4242/api",
        prefect_ui="http://127.0.0.1:4242",
        mlflow="http://127.0.0.1:5252",
        pool="watershed",
        worker="me",
        is_external=False,
    )
    with claimed(runs_dir):
        write_services(runs_dir, services)
        yield


def test_without_servers_one_command_starts_both(tmp_path: Path) -> None:
    """And then the addresses of this study; elsewhere than in the usual directory, with that."""
    database = f"sqlite:///{tmp_path}/runs/mlflow.db"

    told = _pointers(tmp_path, database)
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    elsewhere = _pointers(tmp_path, database)["Servers"]

    assert told == {
        "Figure": "runs/digits-1/curves.png",
        "Directory": "runs/digits-1",
        "Servers": f"{told['Servers'].split()[0]} up",
        "Compare in MLflow": "then open http://127.0.0.1:5000/#/compare-runs?runs=x",
        "Prefect": "then open http://127.0.0.1:4200/runs/flow-run/f1",
    }
    assert told["Servers"].split()[0].endswith("watershed")
    assert elsewhere.endswith("watershed up --data ../runs")
    variable = {"WATERSHED_RUNS_DIR": str(tmp_path / "runs")}
    assert _pointers(tmp_path, database, variable)["Servers"].endswith("watershed up")


def test_servers_that_are_up_are_given_by_their_addresses(tmp_path: Path) -> None:
    """With the direct link to the study, though it ran before they were up, or at another port."""
    (tmp_path / "runs" / "logs").mkdir(parents=True)
    (tmp_path / "runs" / "logs" / "mlflow.log").touch()
    stores = (
        f"sqlite:///{tmp_path}/runs/mlflow.db",
        f"http://127.0.0.1:{any_port()}",
        "http://127.0.0.1:5252",
    )

    with _up(tmp_path / "runs"):
        told = [_pointers(tmp_path, uri) for uri in stores]

    for one in told:
        assert "Servers" not in one
        assert one["Compare in MLflow"] == "http://127.0.0.1:5252/#/compare-runs?runs=x"
        assert one["Prefect"] == "http://127.0.0.1:4242/runs/flow-run/f1"


def test_an_address_of_an_up_that_is_gone_needs_another(tmp_path: Path) -> None:
    """Not a link that answers to nobody; a server that answers is taken as it is."""
    (tmp_path / "runs" / "logs").mkdir(parents=True)
    (tmp_path / "runs" / "logs" / "mlflow.log").touch()

    gone = _pointers(tmp_path, f"http://127.0.0.1:{any_port()}")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        there = _pointers(tmp_path, f"http://127.0.0.1:{port}")

    assert gone["Servers"].endswith("watershed up")
    assert gone["Compare in MLflow"].startswith("then open http://127.0.0.1:5000/")
    assert there["Compare in MLflow"] == f"http://127.0.0.1:{port}/#/compare-runs?runs=x"
    assert there["Prefect"].startswith("then open ")


def test_servers_of_ones_own_are_given_as_addresses(tmp_path: Path) -> None:
    """With servers running, only the addresses."""
    environment = {"PREFECT_API_URL": "http://me:secret@prefect:4200/api"}

    told = _pointers(tmp_path, "http://me:secret@mlflow:5000/", environment)

    assert told["Compare in MLflow"] == "http://mlflow:5000/#/compare-runs?runs=x"
    assert told["Prefect"] == "http://prefect:4200/runs/flow-run/f1"
    assert "Servers" not in told


def test_another_database_than_that_of_up_has_a_command_of_its_own(tmp_path: Path) -> None:
    """`up` would show another one."""
    told = _pointers(tmp_path, "sqlite:////mine.db", {"PREFECT_API_URL": "http://prefect/api"})

    assert told["Compare in MLflow"].splitlines() == [
        f"{program('mlflow')} server --backend-store-uri sqlite:////mine.db --port 5000",
        "then open http://127.0.0.1:5000/#/compare-runs?runs=x",
    ]
    assert "Servers" not in told


def test_programs_are_called_so_that_the_shell_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of an activated environment a program is given with its path."""
    monkeypatch.setenv("PATH", str(tmp_path))

    called = program("watershed")

    assert Path(called).resolve().is_file()


def test_commands_can_be_pasted_whatever_the_directory_is_called(tmp_path: Path) -> None:
    """With a space and a number sign, as a shell reads them."""
    here = tmp_path / "my runs #1"
    here.mkdir()

    told = _pointers(here, f"sqlite:///{here}/runs/mlflow.db")

    assert shlex.split(told["Servers"], comments=True)[1:] == ["up", "--data", "my runs #1/runs"]


def test_commands_to_go_on_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory is one word of them."""
    directory = StudyDirectory(tmp_path / "my runs #1" / "digits-1")

    say_how_to_resume(directory)

    command = capsys.readouterr().out.removeprefix("Continue with: ")
    assert shlex.split(command, comments=True)[1:] == ["resume", str(directory.path)]
