"""The reference of the commands."""

import re
from functools import cache
from pathlib import Path

import pytest
import typer.main

from flows import arguments
from flows.command_line import app
from flows.command_reference import command_reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "commands.md"


@cache
def _reference() -> str:
    return command_reference()


def test_the_document_is_what_the_commands_say() -> None:
    """Made anew by ``python -m flows.command_reference``, it is the same text."""
    assert DOCUMENT.read_text(encoding="utf-8") == _reference()


@pytest.mark.parametrize(
    "line",
    [
        "`watershed run FILE [OPTIONS]`",
        "`watershed register RUN[/POINT] --name NAME [OPTIONS]`",
        "`watershed bench gpu [OPTIONS]`",
        "| `--runs-dir DIR` | `WATERSHED_RUNS_DIR`, else `runs` | ",
        "| `--detach`, `-d` |  | Run it in the background",
        "| `--least-effect LEAST_EFFECT` | `0.02` | ",
        "| `--model NAME` | required | ",
        "Example: `watershed resume digits`",
    ],
)
def test_arguments_are_told_with_names_and_defaults(line: str) -> None:
    """Those that are needed, a variable's default, flags, numbers; the example of each command."""
    assert f"\n{line}" in _reference()


def test_every_command_has_a_section_and_every_option_a_meaning() -> None:
    """None is left out; a command of a group has a section of its own."""
    heads = re.findall(r"^## (.+)$", _reference(), re.MULTILINE)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    rows = [line for line in _reference().splitlines() if line.startswith("| `")]

    assert len(heads) > 15
    assert {head.split()[0] for head in heads[2:]} == set(commands)
    assert "bench gpu" in heads
    assert [row for row in rows if row.endswith("|  |")] == []


def test_the_codes_are_those_of_the_commands() -> None:
    """The table has each code that the commands leave with."""
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", _reference(), re.MULTILINE)}
    left = {value for name, value in vars(arguments).items() if name.startswith("EXIT_")}

    assert left <= told
