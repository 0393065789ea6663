"""The directory of a study, before its first job starts."""

from datetime import datetime
from pathlib import Path

import pytest

from configs.study import Study
from tasks.steps.creation import create_study_directory

NOW = datetime(2026, 1, 2, 3, 4, 5)
STUDY = Study.model_validate(
    {
        "name": "trial",
        "experiment": {"data": "digits", "algorithm": {"collect": 5}},
        "grid": {"algorithm.name": ["afa_cd", "fedavg"], "seed": [1, 2]},
    }
)


def test_every_point_has_its_job(tmp_path: Path) -> None:
    """The directory is named after study and time; jobs are numbered in the order of the grid."""
    directory = create_study_directory(STUDY, tmp_path / "runs", NOW)

    assert directory.path == tmp_path / "runs" / "trial-20260102-030405"
    assert [run.path.name for run in directory.points()] == [
        "000-afa-cd-seed-1",
        "001-afa-cd-seed-2",
        "002-fedavg-seed-1",
        "003-fedavg-seed-2",
    ]
    for run, point in zip(directory.points(), STUDY.points(), strict=True):
        job = run.read_job()
        assert (job.study, job.point, job.config_hash) == ("trial", point.label, point.config_hash)
        assert job.experiment == point.experiment
        assert job.coordinates == point.coordinates


def test_the_study_is_read_back_as_it_was(tmp_path: Path) -> None:
    """The study of the directory has the same points."""
    directory = create_study_directory(STUDY, tmp_path, NOW)

    again = directory.read_study()

    assert [p.config_hash for p in again.points()] == [p.config_hash for p in STUDY.points()]


def test_two_studies_of_one_second_have_two_directories(tmp_path: Path) -> None:
    """A name that is taken gets a number; nothing is written over."""
    names = [create_study_directory(STUDY, tmp_path, NOW).path.name for _ in range(3)]

    assert names == ["trial-20260102-030405", "trial-20260102-030405-2", "trial-20260102-030405-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_directory_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """A file in the place of the runs' directory is an error, and stays."""
    (tmp_path / "runs").write_text("mine")

    with pytest.raises(FileExistsError):
        create_study_directory(STUDY, tmp_path / "runs", NOW)

    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
