"""Finding a run by what a user types."""

import os
from pathlib import Path

import pytest

from flows.finding import find_study, known_runs

OLD, NEW, OTHER = "digits-20260101-000000", "digits-20260102-000000-2", "digits-x-20260103-000000"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Three runs, in the order of their names; and something that is none."""
    for age, name in enumerate([OLD, NEW, OTHER]):
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
