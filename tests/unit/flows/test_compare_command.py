"""``watershed compare`` and ``watershed register``: what is found, and what is told."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from configs.study import Point, Study
from flows.command_line import main
from flows.compare_commands import print_comparison
from flows.finding_points import find_runs
from tasks.runtime.records import Result
from tasks.tracking.comparison import read_subject
from tasks.tracking.comparison_tables import compare
from tasks.tracking.study_directory import StudyDirectory
from tests.unit.tracking.conftest import federated_line, write_run

_DONE = Result(status="finished", wall_s=1.0)


def _line(point: Point, step: int, *, number: int) -> dict[str, float]:
    return federated_line(number / (2 + step + point.index), step)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Two executions of a study of two rates and two seeds."""
    for number in (1, 2):
        directory = StudyDirectory(tmp_path / f"fake-2026010{number}-000000")
        study = Study.model_validate(
            {
                "name": "fake",
                "experiment": {"kind": "federated", "data": "digits", "rounds": 30 + number},
                "grid": {"worker.lr": [0.1, 0.2], "seed": [0, 1]},
            }
        )
        directory.path.mkdir()
        directory.study.write_text(study.model_dump_json())
        for point in study.points():
            run = directory.point(point.index, point.label)
            line = partial(_line, number=number)
            steps = range(0, 31, 10)
            write_run(run, point, study="fake", line=line, steps=steps, result=_DONE)
    return tmp_path


def test_studies_are_compared(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Configurations, results, curves, and the page where it was wished."""
    page = runs_dir / "out.html"

    names = ["fake-20260101-000000", "fake"]

    code = main(["compare", *names, "--runs-dir", str(runs_dir), "--html", str(page)])

    told = capsys.readouterr().out
    assert code == 0
    assert page.stat().st_size > 1e6
    for words in ("rounds", "31", "32", "lr=0.1", "train_loss", "Curves at equal steps"):
        assert words in told
    line = next(line for line in told.splitlines() if "train_loss" in line)
    assert line.split()[0] == "lr=0.1"
    assert "worse" in line


@pytest.mark.parametrize("names", [["fake/0", "fake/2"], ["fake-20260101-000000", "fake"]])
def test_words_are_whole_on_eighty_columns(runs_dir: Path, names: list[str]) -> None:
    """What all rows say alike stands once below them; no name, head or number is folded inside."""
    comparison = compare([read_subject(name, find_runs(name, runs_dir)[1]) for name in names])
    (results,) = [replace(one, note="") for one in comparison.tables if one.title == "Results"]
    only_results = replace(comparison, tables=(results,), notes=())
    lines = [" ".join(cells) for cells in (results.head, *results.body)]
    known = {word for line in lines for word in line.split()}
    below = {"Results", "In", "all", "rows:", "why:", "tell;", "worse;"}
    for width in range(80, 121):
        written = io.StringIO()

        print_comparison(Console(file=written, width=width, color_system=None), only_results)

        words = written.getvalue().replace("─", "").split()
        assert set(words) - below <= known, width
        assert "difference" in words, width
        num_reasons = 1 if "rows:" in words else len(results.body)
        assert sum(word.startswith("chance") for word in words) == num_reasons, width


def test_points_are_found_by_number_label_and_directory(runs_dir: Path) -> None:
    """And called by their number."""
    by_number = find_runs("fake/1", runs_dir)
    (directory,) = by_number[1]

    assert by_number[0] == "fake-20260102-000000/1"
    assert find_runs("fake/lr=0.1 · seed=1", runs_dir) == by_number
    assert find_runs(f"fake-20260102-000000/{directory.path.name}", runs_dir) == by_number
    assert find_runs(str(directory.path), runs_dir) == by_number


def test_wrong_names_are_told_together_with_what_there_is(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Studies for a study, points for a point."""
    code = main(["compare", "nix", "fake/9", "--runs-dir", str(runs_dir)])

    told = capsys.readouterr().err
    assert code == 2
    assert "no run 'nix'" in told
    assert "fake-20260102-000000" in told
    assert "no point '9'" in told
    assert "000-lr-0.1-seed-0" in told


def test_one_name_is_no_comparison(runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written."""
    code = main(["compare", "fake", "--runs-dir", str(runs_dir)])

    assert code == 2
    assert "name two or more" in capsys.readouterr().err


def test_a_study_of_several_points_is_no_model(
    runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The points are named, before MLflow is asked."""
    code = main(["register", "fake", "--name", "m", "--runs-dir", str(runs_dir)])

    assert code == 2
    assert "has 4 points; name one as" in capsys.readouterr().err
