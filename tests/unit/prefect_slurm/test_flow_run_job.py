"""The job on the node, with a stand-in for Prefect's engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.prefect_slurm.flow_run_job import command_of
from tasks.prefect_slurm.records import MODULE, FlowRunJob
from tasks.runtime.run_directory import RunDirectory
from tests.unit.prefect_slurm.world import wait_until

ENGINE = """
import json, os, pathlib, signal, sys, time
pathlib.Path("environment.json").write_text(json.dumps(dict(os.environ)))
what = sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(what == "wait"))
pathlib.Path("begun").touch()
if what in {"wait", "ending"}:
    time.sleep(60)
sys.exit(int(what))
"""


def _run_dir(path: Path, what: str, **changes: object) -> RunDirectory:
    (path / "engine.py").write_text(ENGINE)
    job = FlowRunJob.model_validate(
        {
            "flow_run_id": "00000000-0000-0000-0000-000000000001",
            "flow_run_name": "brisk-owl",
            "work_pool": "p",
            "server": "s",
            "command": [sys.executable, str(path / "engine.py"), what],
        }
        | changes
    )
    directory = RunDirectory(path)
    directory.job.write_text(job.model_dump_json())
    return directory


def _start(directory: RunDirectory) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, str(directory.job)],
        env=os.environ | {"PREFECT_API_KEY": "another's", "PYTHONSAFEPATH": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _begun(directory: RunDirectory) -> "subprocess.Popen[str]":
    process = _start(directory)
    wait_until((directory.path / "begun").exists, limit_s=60)
    return process


@pytest.mark.parametrize(("code", "status"), [(0, "finished"), (3, "failed")])
def test_the_end_of_the_engine_is_the_end_of_the_job(
    tmp_path: Path, code: int, status: str
) -> None:
    """Exit code 0 or 1, and a result that says so."""
    directory = _run_dir(tmp_path, str(code))

    process = _start(directory)
    said = process.communicate(timeout=60)[1]

    result = directory.read_result()
    assert result is not None
    assert (process.returncode, result.status) == (min(code, 1), status)
    assert ("brisk-owl ended with code 3" in said) is bool(code)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["PREFECT__FLOW_RUN_ID"].endswith("1")
    assert "PREFECT_API_KEY" not in environment


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_stop_reaches_the_engine(tmp_path: Path, *, goes_on: bool) -> None:
    """The job is interrupted; only if the pool says so, another one would come further."""
    directory = _run_dir(tmp_path, "wait", continue_at_time_limit=goes_on)
    process = _begun(directory)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    result = directory.read_result()
    assert result is not None
    assert (process.returncode, result.status) == (143, "interrupted")
    assert directory.checkpoints.exists() is goes_on


def test_a_stop_after_the_flows_end_begins_it_no_second_time(tmp_path: Path) -> None:
    """The engine has told the end already, and takes its time to exit: with code 0."""
    directory = _run_dir(tmp_path, "ending", continue_at_time_limit=True)
    process = _begun(directory)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    result = directory.read_result()
    assert result is not None
    assert (process.returncode, result.status) == (0, "finished")
    assert not directory.checkpoints.exists()


def test_a_faulty_file_of_secrets_is_told(tmp_path: Path) -> None:
    """Before anything runs."""
    secrets = tmp_path / "secrets"
    secrets.write_text("A=b")
    secrets.chmod(0o644)
    directory = _run_dir(tmp_path, "0", secrets_file=str(secrets))

    process = _start(directory)
    said = process.communicate(timeout=60)[1]

    assert process.returncode == 1
    assert "run: chmod 600" in said
    assert not (tmp_path / "begun").exists()


def test_prefects_own_command_is_that_of_this_python(tmp_path: Path) -> None:
    """What stands on PATH may be another installation."""
    text = _run_dir(tmp_path, "0", command=[]).job.read_text()
    job = FlowRunJob.model_validate_json(text)

    assert command_of(job) == [sys.executable, "-m", "prefect", "flow-run", "execute"]
    bundle = job.model_copy(update={"command": ("prefect", "bundle", "x")})
    assert command_of(bundle) == [sys.executable, "-m", "prefect", "bundle", "x"]
    other = job.model_copy(update={"command": ("uv", "run")})
    assert command_of(other) == ["uv", "run"]


def test_the_job_itself_imports_no_prefect() -> None:
    """The wrapper's child is there in a moment; Prefect takes seconds, in a process of its own."""
    code = f"import sys, {MODULE}; sys.exit('prefect' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
