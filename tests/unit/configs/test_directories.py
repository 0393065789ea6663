"""Where runs are kept: what is named, else the environment variable, else ``runs``."""

from pathlib import Path

import pytest

from configs.directories import RUNS_DIR_VARIABLE, runs_directory
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
