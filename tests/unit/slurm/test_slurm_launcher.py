"""The launcher: what it leaves behind when it is closed."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.commands import SlurmCli
from tasks.slurm.launcher import JobId, JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger import Ledger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import LEDGER_NAME, SlurmLauncher
from tests.fakes.slurm import FakeSlurm


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmLauncher]:
    """A launcher on a cluster whose clock stands still: what is submitted never ends."""
    monkeypatch.setattr("tasks.slurm.ledger_file._BUSY_TIMEOUT_S", 0.2)
    cli = SlurmCli(FakeSlurm(0).run)
    config = SlurmLauncherConfig(pack="single")
    study_dir = tmp_path / "study"
    launcher = SlurmLauncher(config, study_dir, slurm=cli, state_dir=tmp_path, grace_s=0.5)
    yield launcher
    launcher.close()


def _plan(study_dir: Path) -> JobPlan:
    run_dir = study_dir / "points" / "000"
    run_dir.mkdir(parents=True)
    RunDirectory(run_dir).job.touch()
    return JobPlan(name="a", module="toy.job", run_dir=run_dir, python="/usr/bin/python3")


def test_what_has_not_stopped_in_time_is_told(
    launcher: SlurmLauncher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as interrupted, and the user learns what to run if that is not enough."""
    job = launcher.submit(_plan(tmp_path / "study"))
    while not Ledger(LedgerFile(tmp_path / LEDGER_NAME)).entries()[0].slurm_job:
        launcher.wait(job, 0.1)

    launcher.close()

    assert launcher.poll(job) is JobState.INTERRUPTED
    assert "not known to have stopped: 1 of its jobs; run: watershed cancel study" in caplog.text


def test_a_job_is_told_by_its_id_and_why_it_waits(launcher: SlurmLauncher, tmp_path: Path) -> None:
    """Before Slurm has it, that it waits for that; of a job that is not ours, nothing."""
    plan = _plan(tmp_path / "study")
    job = launcher.submit(plan)
    while not (entry := Ledger(LedgerFile(tmp_path / LEDGER_NAME)).entries()[0]).slurm_job:
        launcher.wait(job, 0.1)

    told = launcher.describe(job)

    assert told.startswith(f"job {entry.slurm_job} on the default partition: PENDING")
    assert launcher.describe(JobId("unknown")) == ""


def test_whoever_waits_for_a_job_learns_that_slurm_does_not_answer(
    launcher: SlurmLauncher, tmp_path: Path
) -> None:
    """Also in a process that does not lead, until Slurm answers; not of a job that is over."""
    job = launcher.submit(_plan(tmp_path / "study"))
    leader = LeaderLedger(LedgerFile(tmp_path / LEDGER_NAME))
    while not leader.entries()[0].slurm_job:
        launcher.wait(job, 0.1)
    before = launcher.describe(job)

    leader.suffer("Unable to contact slurm controller", 1.8e9)
    while "answered" not in (told := launcher.describe(job)):
        launcher.wait(job, 0.05)
    leader.recover()
    while "answered" in launcher.describe(job):
        launcher.wait(job, 0.05)

    assert told.startswith(f"{before}; Slurm has not answered since 2027-01-1")
    assert told.endswith(": Unable to contact slurm controller")


def test_a_close_that_failed_can_be_repeated(launcher: SlurmLauncher, tmp_path: Path) -> None:
    """The wish to stop is not lost because the ledger was busy."""
    job = launcher.submit(_plan(tmp_path / "study"))
    with sqlite3.connect(tmp_path / LEDGER_NAME, timeout=30) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            launcher.close()
        other.rollback()

    launcher.close()

    entry = Ledger(LedgerFile(tmp_path / LEDGER_NAME)).entry(job)
    assert entry is not None
    assert entry.wish_cancel
