"""Finding a run by what a user types."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.study import Study
from flows.command_line import main
from flows.finding import find_study, going_runs, known_runs, only_one
from tasks.runtime.records import Result
from tasks.slurm.results import write_result
from tasks.steps.creation import create_study_directory

OLD, NEW, OTHER = "digits-20260101-000000", "digits-20260102-000000-2", "digits-x-20260103-000000"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Three runs, whose files were touched in another order; and something that is none."""
    for age, name in enumerate([OTHER, NEW, OLD]):
        study = tmp_path / name / "study.json"
        study.parent.mkdir()
        study.touch()
        os.utime(study, (age, age))
    (tmp_path / "prefect").mkdir()
    (tmp_path / ".new-abc").mkdir()
    (tmp_path / ".new-abc" / "study.json").touch()
    return tmp_path


def test_runs_are_found_by_directory_name_and_study(runs_dir: Path) -> None:
    """A path, a name, a study's name for its newest run, nothing for the newest of all."""
    typed = [str(runs_dir / OLD), OLD, "digits", "digits-x", None]

    found = [find_study(text, runs_dir).path.name for text in typed]

    assert found == [OLD, OLD, NEW, OTHER, OTHER]


def test_an_unknown_run_is_refused_with_those_known(runs_dir: Path) -> None:
    """The newest runs are named, the newest first; drafts are not among them."""
    with pytest.raises(LookupError, match=f"no run 'digit' in .*; the newest are {OTHER}, {NEW},"):
        find_study("digit", runs_dir)

    assert [run.path.name for run in known_runs(runs_dir)] == [OLD, NEW, OTHER]


def test_without_runs_the_way_to_one_is_shown(tmp_path: Path) -> None:
    """A directory without runs, or none at all, leads to the first run."""
    with pytest.raises(LookupError, match="holds no runs; start one with: watershed run"):
        find_study(None, tmp_path / "absent")


def test_the_newest_run_is_that_of_the_latest_date(tmp_path: Path) -> None:
    """Not the one whose file was touched last; of one second, the one with the higher number."""
    names = [
        "a-20260102-030405-10",
        "b-20260102-030405-2",
        "a-20260102-030405",
        "c-20251231-235959",
    ]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").touch()
        os.utime(tmp_path / name / "study.json", (age, age))

    found = [run.path.name for run in known_runs(tmp_path)]

    assert found == [names[3], names[2], names[1], names[0]]


def test_a_run_with_a_name_of_its_own_stands_by_the_time_of_its_file(tmp_path: Path) -> None:
    """As somebody renamed it; what only looks like a date is no date."""
    for name in ("a-20260101-000000", "mine", "a-20260103-000000", "b-99999999-999999"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").touch()
    second = 1767355200  # 2026-01-02 12:00 UTC, and 2 January everywhere
    os.utime(tmp_path / "mine" / "study.json", (second, second))
    os.utime(tmp_path / "b-99999999-999999" / "study.json", (second + 60, second + 60))

    found = [run.path.name for run in known_runs(tmp_path)]

    assert found == ["a-20260101-000000", "mine", "b-99999999-999999", "a-20260103-000000"]


@contextmanager
def _running(study: Path) -> Iterator[None]:
    """Hold the lock of a study, as the process of its flow does."""
    with (study / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No jobs of Slurm of the one who tests."""
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))


@pytest.mark.usefixtures("quiet")
def test_the_only_run_that_goes_on_can_be_meant(runs_dir: Path) -> None:
    """It need not be the newest."""
    assert only_one(going_runs(runs_dir), are="are running", command="c") is None

    with _running(runs_dir / OLD):
        found = only_one(going_runs(runs_dir), are="are running", command="c")

    assert found is not None
    assert found.path.name == OLD


@pytest.mark.usefixtures("quiet")
def test_of_several_running_runs_none_is_cancelled(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bare ``cancel`` lists the commands, the newest first; both go on; the exit code is 2."""
    with _running(runs_dir / OLD), _running(runs_dir / OTHER):
        code = main(["cancel", "--runs-dir", str(runs_dir)])

    assert code == 2
    assert capsys.readouterr().err.splitlines() == [
        "2 runs are running; which one? One of:",
        f"  watershed cancel {runs_dir / OTHER}",
        f"  watershed cancel {runs_dir / OLD}",
    ]


@pytest.mark.usefixtures("quiet")
def test_nothing_to_cancel_is_said(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has ended is not meant, though it is the newest."""
    code = main(["cancel", "--runs-dir", str(runs_dir)])

    assert code == 1
    assert capsys.readouterr().err == f"nothing is running in {runs_dir}\n"


@pytest.mark.usefixtures("quiet")
def test_of_several_failed_runs_none_is_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bare ``retry`` lists them, without one that runs or has not failed; nothing is done."""
    study = Study.model_validate({"name": "s", "experiment": {"data": "digits"}})
    for day in (1, 2, 3, 4):
        directory = create_study_directory(study, tmp_path, datetime(2026, 1, day, tzinfo=UTC))
        failed = Result(status="failed", reason="data", message="no data")
        write_result(directory.points()[0], failed if day < 4 else Result(status="finished"))

    with _running(tmp_path / "s-20260101-000000"):
        code = main(["retry", "--runs-dir", str(tmp_path)])
    of_memory = main(["retry", "--runs-dir", str(tmp_path), "--only", "oom"])

    captured = capsys.readouterr()
    assert (code, of_memory) == (2, 0)
    assert captured.err.splitlines() == [
        "2 runs have points to retry; which one? One of:",
        f"  watershed retry {tmp_path}/s-20260103-000000",
        f"  watershed retry {tmp_path}/s-20260102-000000",
    ]
    assert captured.out == "Nothing to retry: no point has failed for oom\n"


_OTHER = 54_321
_only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A run of ours with a failed point; beside it a newer one and one of a bare name, foreign."""
    study = Study.model_validate({"name": "digits", "experiment": {"data": "digits"}})
    own = create_study_directory(study, tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    write_result(own.points()[0], Result(status="failed", reason="data", message="no data"))
    for name in ("digits-29991231-235959", "digits", "other"):
        shutil.copytree(own.path, tmp_path / name)
        os.chown(tmp_path / name, _OTHER, _OTHER)
    return tmp_path


@_only_root
def test_a_run_of_another_user_is_never_the_newest(
    planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the one of a study's name; not in the directory of runs, and not in the current one."""
    typed = [None, "digits", "digits-20260101-000000"]

    found = [find_study(name, planted).path.name for name in typed]
    monkeypatch.chdir(planted)
    found += [find_study("digits", Path()).path.name]

    assert found == ["digits-20260101-000000"] * 4
    assert [run.path.name for run in known_runs(planted)] == ["digits-20260101-000000"]


@_only_root
def test_a_run_of_another_user_is_shown_by_its_path_alone(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bare name is refused with the command that shows it."""
    by_name = main(["show", "other", "--runs-dir", str(planted)])
    told = capsys.readouterr().err
    by_path = main(["show", str(planted / "other")])

    assert (by_name, by_path) == (2, 0)
    assert told == (
        f"{planted}/other belongs to user {_OTHER}; to look at it, write its path: watershed show "
        f"{planted}/other\n"
    )


@_only_root
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("command", ["resume", "retry", "cancel", "adopt"])
def test_nothing_is_done_with_a_run_of_another_user(
    planted: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Its checkpoint is a pickle: who loads it runs what it says."""
    path = planted / "digits-29991231-235959"

    code = main([command, str(path)])

    assert code == 2
    assert capsys.readouterr().err == (
        f"{path} belongs to user {_OTHER}: what lies there could run commands as you; look at it "
        "with watershed show, or begin a run of your own with: watershed run\n"
    )
