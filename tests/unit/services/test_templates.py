"""The templates of docs/templates: read by the programs that they are for, where those are here."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.command_line import app

_TEMPLATES = Path(__file__).parents[3] / "docs" / "templates"
_UNIT = _TEMPLATES / "watershed.service"
_JOB = _TEMPLATES / "watershed-service.sbatch"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With its paths replaced by such that are there, it has no fault."""
    text = _UNIT.read_text()
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text).replace("%h/watershed", "/tmp")  # noqa: S108
    (tmp_path / "watershed.service").write_text(text)

    ended = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(tmp_path / "watershed.service")],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "watershed.service" not in ended.stderr


def test_the_unit_leaves_up_the_time_that_it_needs() -> None:
    """Flow runs have 75 s, servers 10 each; systemd must not kill before."""
    text = _UNIT.read_text()

    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) >= 75 + 2 * 10
    assert "KillMode=mixed" in text


def test_bash_and_sbatch_take_the_job() -> None:
    """The script has no fault of syntax, and Slurm knows its options, if it is here."""
    subprocess.run(["bash", "-n", _JOB], check=True)
    options = re.findall(r"^#SBATCH --(\S+?)=", _JOB.read_text(), re.MULTILINE)

    assert {"signal", "dependency", "time", "partition"} <= set(options)
    if (sbatch := shutil.which("sbatch")) is None:
        return
    ended = subprocess.run(
        [sbatch, "--test-only", _JOB], capture_output=True, text=True, timeout=60, check=False
    )
    assert "unrecognized option" not in ended.stderr
    assert "Invalid --" not in ended.stderr


@pytest.mark.parametrize(
    ("signum", "told"),
    [
        (signal.SIGUSR1, ["sbatch", "SIGTERM"]),
        (signal.SIGTERM, ["SIGTERM"]),
        (signal.SIGINT, ["SIGINT"]),
    ],
)
def test_the_job_queues_its_successor_and_passes_signals_on(
    tmp_path: Path, signum: signal.Signals, told: list[str]
) -> None:
    """Near its end it hands over; a person's INT cancels; the exit code is that of `up`."""
    log, ready = tmp_path / "log", tmp_path / "ready"
    programs = {  # bash starts `up` without SIGINT, which a shell could not undo
        tmp_path / ".venv/bin/watershed": f"""#!{sys.executable}
import pathlib, signal, sys, time
def end(signum, _):
    with open("{log}", "a") as log:
        log.write(signal.Signals(signum).name + " ")
    sys.exit(3)
for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, end)
pathlib.Path("{ready}").touch()
time.sleep(20)
""",
        tmp_path / "bin/sbatch": f'#!/bin/bash\ntest -r "$1" && printf "sbatch " >> {log}\n',
    }
    (tmp_path / "docs").symlink_to(_TEMPLATES.parent)
    for path, script in programs.items():
        path.parent.mkdir(parents=True)
        path.write_text(script)
        path.chmod(0o755)
    own = {"CHECKOUT": str(tmp_path), "HOME": str(tmp_path)}
    own["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    with subprocess.Popen(["bash", _JOB], env=os.environ | own, start_new_session=True) as job:
        deadline = time.monotonic() + 10
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

        job.send_signal(signum)
        code = job.wait(10)

    assert code == 3
    assert log.read_text().split() == told


@pytest.mark.parametrize("path", [_UNIT, _JOB])
def test_the_options_in_the_templates_exist(path: Path) -> None:
    """What they call `up` with, `up` takes."""
    (call,) = re.findall(r"watershed up (.*?)(?: &)?$", path.read_text(), re.MULTILINE)
    told = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["up", "--help"]).output

    for option in re.findall(r"--\w+", call):
        assert option in told
