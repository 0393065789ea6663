"""The command line from end to end: Prefect with its own server, MLflow on SQLite, real jobs.

One study is run once for all tests that look at what it left; it takes half a minute, most of which
Prefect's server needs to make its database.
"""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.tracking.study_directory import StudyDirectory

WATERSHED = Path(sys.executable).with_name("watershed")

# Two workers whose optima are 0 and 100. The mean over both is at 50: there f = 1250.
STUDY = """
description: Do two workers meet in the middle?
experiment:
  workers: 2
  rounds: 60
  evaluate_every: 5
  model: {name: quadratic, centres: [0, 100]}
  algorithm: {collect: 2}
  worker: {lr: 0.2}
  arrivals: synchronous
grid:
  algorithm.name: [afa_cd, afa_cs]
"""


@dataclass(frozen=True)
class Ended:
    """A call of the command line."""

    code: int
    output: str


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with studies, whose runs share one Prefect database."""
    directory = tmp_path_factory.mktemp("workplace")
    (directory / "middle.yaml").write_text(STUDY)
    return directory


def _environment(workplace: Path) -> dict[str, str]:
    """The environment of a user who has never used Prefect or MLflow."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "WATERSHED_", "COV_"))
    }
    return inherited | {"HOME": str(workplace), "OMP_NUM_THREADS": "1"}


def _watershed(workplace: Path, *arguments: str) -> Ended:
    ended = subprocess.run(
        [WATERSHED, *arguments],
        cwd=workplace,
        env=_environment(workplace),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout)


@pytest.fixture(scope="module")
def finished(workplace: Path) -> Ended:
    """A study that was run to its end."""
    return _watershed(workplace, "run", "middle.yaml")


def _study(workplace: Path) -> StudyDirectory:
    (path,) = workplace.glob("runs/middle-*")
    return StudyDirectory(path)


def test_a_study_runs_with_nothing_started_beforehand(workplace: Path, finished: Ended) -> None:
    """The exit code is 0, every point has finished, and the workers did meet in the middle."""
    results = [run.read_result() for run in _study(workplace).points()]

    assert finished.code == 0, finished.output
    assert [result.status for result in results if result] == ["finished", "finished"]
    # K = 5 steps of rate 0.2, divided by K, take (1 - 0.8^5) / 5 = 0.134 of the way in each round:
    # of 50, 50 * 0.866^60 = 0.009 remain, which is 4e-5 in the loss.
    assert [result.metrics["train/loss"] for result in results if result] == pytest.approx(
        [1250, 1250], abs=1e-3
    )


def test_the_output_without_a_terminal_is_plain(finished: Ended) -> None:
    """No control codes, no traceback; each point's start and end has its line."""
    assert "\x1b" not in finished.output
    assert "\r" not in finished.output
    assert "Traceback" not in finished.output
    for label in ("afa_cd", "afa_cs"):
        assert re.search(
            rf"^\d:\d\d  finished     {label}: round 60, loss 1250", finished.output, re.M
        )


def test_the_summary_says_where_everything_is(workplace: Path, finished: Ended) -> None:
    """Table, figure, report, the command that starts the servers, and what to open then."""
    study = _study(workplace)

    assert re.search(r"^ *afa_cd +1250 ", finished.output, re.M)
    assert study.curves.read_bytes().startswith(b"\x89PNG")
    assert study.report.read_text().startswith("# middle\n")
    assert f"Figure            runs/{study.path.name}/curves.png" in finished.output
    assert re.search(r"^Servers           .*watershed up$", finished.output, re.M)
    assert "then open http://127.0.0.1:5000/#/experiments/1/runs?" in finished.output
    assert "then open http://127.0.0.1:4200/runs/flow-run/" in finished.output


def test_the_runs_are_in_mlflow(workplace: Path, finished: Ended) -> None:
    """One experiment, a run for the study and one for each point, with the whole journal."""
    assert finished.code == 0
    from mlflow import MlflowClient  # noqa: PLC0415  3 s

    client = MlflowClient(f"sqlite:///{workplace}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("middle")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    assert set(runs) == {"afa_cd", "afa_cs", _study(workplace).path.name}
    history = client.get_metric_history(runs["afa_cs"].info.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(0, 61, 5))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["afa_cd"].data.params["algorithm.name"] == "afa_cd"


def test_the_flow_is_in_prefect(workplace: Path, finished: Ended) -> None:
    """The flow run has the run's name, the task runs those of the points; the report is there."""
    assert finished.code == 0

    with closing(sqlite3.connect(workplace / "runs" / "prefect" / "prefect.db")) as database:
        flow_runs = set(database.execute("SELECT name, state_name FROM flow_run"))
        task_runs = set(database.execute("SELECT name, state_name FROM task_run"))
        artifacts = dict(database.execute("SELECT key, data FROM artifact WHERE key IS NOT NULL"))

    assert flow_runs == {(_study(workplace).path.name, "Completed")}
    assert task_runs == {(name, "Completed") for name in ("afa_cd", "afa_cs", "report")}
    assert "data:image/png;base64," in artifacts["middle"]


def test_a_finished_run_is_shown(workplace: Path, finished: Ended) -> None:
    """``show`` prints the same table and the same pointers."""
    assert finished.code == 0

    shown = _watershed(workplace, "show", "middle")

    assert shown.code == 0
    pointers = finished.output[finished.output.index("Figure ") :]
    assert pointers in shown.output
    assert "Continue with" not in shown.output


def test_a_finished_run_is_not_run_again(workplace: Path, finished: Ended) -> None:
    """``resume`` of a finished run says so at once, and starts nothing."""
    assert finished.code == 0

    resumed = _watershed(workplace, "resume", "middle")

    assert resumed.code == 0
    assert resumed.output.endswith("All points have finished; there is nothing to resume.\n")
    assert [len(run.attempts()) for run in _study(workplace).points()] == [1, 1]


def test_a_faulty_configuration_creates_nothing(tmp_path: Path) -> None:
    """All faults at once, exit code 2, no traceback, and no directory."""
    (tmp_path / "bad.yaml").write_text("{data: imagenet, rounds: 0, worker: {lr: -1}}")

    ended = _watershed(tmp_path, "run", "bad.yaml")

    assert ended.code == 2
    assert [line.split(": ")[1] for line in ended.output.splitlines()] == [
        "rounds",
        "data",
        "worker.lr",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.fixture
def started(workplace: Path, finished: Ended) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the command line in the background; it is stopped at the end of the test."""
    assert finished.code == 0
    processes = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [WATERSHED, *arguments],
            cwd=workplace,
            env=_environment(workplace),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.wait(60)


def _until(condition: Callable[[], object], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def _num_lines(run: RunDirectory) -> int:
    return run.journal.read_bytes().count(b"\n") if run.journal.exists() else 0


LONG_STUDY = """
experiment:
  workers: 2
  rounds: 4000
  evaluate_every: 5
  checkpoint_every: 500
  model: {name: quadratic, centres: [0, 100], noise: 1}
  algorithm: {collect: 1}
  worker: {lr: 0.05}
grid:
  who:
    steady: {}
    broken: {model: logistic, data: {name: mnist, source: empty, partition: iid}}
    torn: {seed: 1}
"""


def test_ctrl_c_stops_cleanly_and_resume_goes_on(
    workplace: Path, started: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Ctrl-C stops the jobs within seconds, and the resumed study goes on where it was.

    The second point fails, as its data directory is empty; of the third a file was damaged between:
    that stops nothing, is explained, and is told by the exit code.
    """
    (workplace / "long.yaml").write_text(LONG_STUDY)
    (workplace / "empty").mkdir()
    process = started("run", "long.yaml", "--parallel", "1")
    _until(lambda: list(workplace.glob("runs/long-*/points/000*/metrics.jsonl")))
    (path,) = workplace.glob("runs/long-*")
    steady, broken, torn = StudyDirectory(path).points()
    _until(lambda: _num_lines(steady) > 120)

    asked_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    _until(lambda: not is_alive(steady), 20)
    stopped_after_s = time.monotonic() - asked_at
    output, _ = process.communicate(timeout=90)
    torn.job.write_bytes(b"")
    resumed = _watershed(workplace, "resume", "long")

    assert process.returncode == 130, output
    assert stopped_after_s < 15  # a second on an idle machine
    assert "interrupted  who=steady: round " in output
    assert "Traceback" not in output + resumed.output
    assert re.search(r"^Continue with: .*watershed resume runs/long-", output, re.M)
    assert resumed.code == 1, resumed.output
    assert [len(run.attempts()) for run in (steady, broken, torn)] == [2, 1, 0]
    steps = re.findall(r'"step": (\d+)', steady.journal.read_text())
    assert steps == [str(step) for step in range(0, 4001, 5)]
    assert re.search(rf"^failed who=broken: mnist: .*{workplace}/empty", resumed.output, re.M)
    assert re.search(r"^damaged 002-who-torn: runs/.*/job.json is empty, ", resumed.output, re.M)
