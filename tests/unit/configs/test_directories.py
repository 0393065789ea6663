"""Where runs are kept: what is named, else the environment variable, else ``runs``."""

from pathlib import Path

import pytest

from configs.directories import RUNS_DIR_VARIABLE, artifact_location, runs_directory
from flows.command_line import main


def test_what_is_named_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is a default; an empty one is none; ``~`` is the home directory."""
    monkeypatch.delenv(RUNS_DIR_VARIABLE, raising=False)
    assert runs_directory() == Path("runs")

    monkeypatch.setenv(RUNS_DIR_VARIABLE, "~/elsewhere")
    assert runs_directory() == Path.home() / "elsewhere"
    assert runs_directory(Path("mine")) == Path("mine")

    monkeypatch.setenv(RUNS_DIR_VARIABLE, "")
    assert runs_directory() == Path("runs")


def test_the_commands_look_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--runs-dir has the variable as its default."""
    monkeypatch.setenv(RUNS_DIR_VARIABLE, str(tmp_path / "elsewhere"))

    assert main(["show"]) != 0
    assert "elsewhere" in capsys.readouterr().err


def test_a_question_mark_is_refused_where_runs_are_to_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the address of MLflow's database the options begin there; nothing is made."""
    file = tmp_path / "s.yaml"
    file.write_text("{name: s, experiment: {data: digits}}")

    code = main(["run", str(file), "--runs-dir", str(tmp_path / "why?" / "runs")])

    assert code == 2
    assert "MLflow would put its data elsewhere" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_artifacts_are_named_by_an_address_where_a_path_would_be_misread() -> None:
    """A plain path stays one, as experiments that are there already have it."""
    assert artifact_location(Path("/runs of me/mlartifacts")) == "/runs of me/mlartifacts"
    assert artifact_location(Path("/a%20b")) == "file:///a%2520b"
    assert artifact_location(Path("/a#b")) == "file:///a%23b"
