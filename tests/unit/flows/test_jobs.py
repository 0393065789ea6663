"""What the commands on jobs tell when Slurm does not answer."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from flows.jobs import jobs_of, print_jobs, print_why
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile, state_directory
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import LEDGER_NAME

SINCE_S = 1_800_000_000.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run whose job waits to be submitted."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    directory = RunDirectory(tmp_path / "s" / "points" / "000-a")
    directory.path.mkdir(parents=True)
    experiment = Study.model_validate({"name": "s", "experiment": {"data": "digits"}}).experiment
    job = JobFile(study="s", point="seed 1", config_hash="0", experiment=experiment)
    directory.job.write_text(job.model_dump_json())
    plan = JobPlan(name="a", module="toy.job", run_dir=directory.path)
    _ledger().register(tmp_path / "s", SlurmLauncherConfig(), [plan], SINCE_S)
    return directory


def _ledger() -> LeaderLedger:
    return LeaderLedger(LedgerFile(state_directory("here") / LEDGER_NAME))


def _console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=100), text


def test_jobs_and_why_say_that_slurm_does_not_answer(run: RunDirectory) -> None:
    """Since when, its words, and when it was asked last; nothing of it once it answers again."""
    ledger = _ledger()
    shown = []

    for _ in range(2):
        ledger.suffer("socket timed out on send/recv operation", SINCE_S)
        ledger.suffer("connection refused", SINCE_S + 500.0)
        console, text = _console()
        print_jobs(console, jobs_of(None), SINCE_S + 562.0)
        print_why(console, [run])
        shown.append(text.getvalue())
        ledger.recover()
    console, text = _console()
    print_jobs(console, jobs_of(None), SINCE_S + 562.0)
    print_why(console, [run])

    for one in shown:
        assert one.count("Slurm has not answered since 2027-01-1") == 2
        assert one.count(": socket timed out on send/recv operation") == 2
        assert "(last asked 1:02 ago). Jobs go on; nothing is submitted" in one
    assert "answer" not in text.getvalue()
