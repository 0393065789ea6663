"""Whether a command that a document shows is one: read by the program's own command line.

Nothing is run: ``watershed`` and ``mlflow`` are read by click, ``prefect`` by cyclopts, ``make`` by
a dry run, of whose lines those of ``watershed`` are read in turn; of ``pytest`` the options, paths
and names of tests, of ``python -m`` the module.
"""

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.documents import ROOT, Command, commands_of_line

_INCOMPLETE = re.compile("requires an argument|Missing (argument|option|parameter)")
_OF_OUR_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"}
_SESSION_OPTIONS = {"--no-prompt", "--prompt"}
"""Options of ``prefect`` before its command, which its outer command line takes away."""


def fault(command: Command, config: pytest.Config) -> str | None:
    """Say what is wrong with a command.

    Args:
        command: The command.
        config: For what pytest knows of its options.

    Returns:
        The program's own words; None for a command that is right, or of a program that is not
        known here.
    """
    told = _told(command, config)
    if told and command.is_mention and _INCOMPLETE.search(told):
        return None  # it is named, not shown with all that it needs
    return told


def _told(command: Command, config: pytest.Config) -> str | None:
    program, *arguments = command.words
    match program:
        case "watershed":
            return _of_watershed(arguments)
        case "mlflow":
            return _of_mlflow(arguments)
        case "prefect":
            return _of_prefect(arguments)
        case "make":
            return _of_make(arguments)
        case "pytest":
            return _of_pytest(arguments, config)
        case "python" | "python3":
            return _of_python(arguments)
    return None


def _of_watershed(arguments: list[str]) -> str | None:
    import typer.main  # noqa: PLC0415  with the next line a second, and only here

    from flows.command_line import app  # noqa: PLC0415

    return _of_click(typer.main.get_command(app), "watershed", arguments)


def _of_mlflow(arguments: list[str]) -> str | None:
    from mlflow.cli import cli  # noqa: PLC0415  costs seconds

    return _of_click(cli, "mlflow", arguments)


def _of_click(group: Any, name: str, arguments: list[str]) -> str | None:
    """Read arguments by a click command (typer brings a click of its own, hence no type)."""
    command, rest, parent = group, arguments, None
    try:
        while True:
            context = command.make_context(name, list(rest), parent=parent)
            if not hasattr(command, "resolve_command"):
                return None
            rest = [*context._protected_args, *context.args]
            if not rest:
                return None
            name, command, rest = command.resolve_command(context, rest)
            parent = context
    except SystemExit:  # --help, --version
        return None
    except Exception as error:
        if type(error).__name__ == "Exit":
            return None
        if hasattr(error, "format_message"):
            return str(error.format_message())
        raise


def _of_prefect(arguments: list[str]) -> str | None:
    import cyclopts  # noqa: PLC0415  with the next line 3 s
    from prefect.cli._app import _app  # noqa: PLC0415

    while arguments and arguments[0] in _SESSION_OPTIONS:
        arguments = arguments[1:]
    try:
        _app.parse_args(arguments, print_error=False, exit_on_error=False)
    except cyclopts.CycloptsError as error:
        return str(error)
    return None


def _of_make(arguments: list[str]) -> str | None:
    # The make that runs the tests hands its own ARGS on.
    environment = {name: text for name, text in os.environ.items() if name not in _OF_OUR_MAKE}
    ended = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *arguments],
        cwd=ROOT, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if ended.returncode:
        return ended.stdout.strip()
    faults = [
        _of_watershed(list(inner.words[1:]))
        for line in ended.stdout.splitlines()
        for inner in commands_of_line("make", 0, line.strip())
        if inner.words[0] == "watershed"
    ]
    return "; ".join(filter(None, faults)) or None


def _of_pytest(arguments: list[str], config: pytest.Config) -> str | None:
    options, unknown = config._parser.parse_known_and_unknown_args(arguments)  # no public way
    if unknown:
        return f"unknown: {' '.join(unknown)}"
    paths = [ROOT / name.split("::")[0] for name in options.file_or_dir]
    if missing := [str(path) for path in paths if not path.exists()]:
        return f"not there: {', '.join(missing)}"
    if not options.keyword:
        return None
    tests = "".join(
        file.read_text(encoding="utf-8")
        for path in paths or [ROOT / "tests"]
        for file in ([path] if path.is_file() else path.rglob("test_*.py"))
    )
    is_there = re.search(rf"def test_\w*{options.keyword}", tests)
    return None if is_there else f"-k {options.keyword} chooses no test"


def _of_python(arguments: list[str]) -> str | None:
    match arguments:
        case ["-m", "venv" | "pip", *_]:
            return None
        case ["-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"there is no module {module}"
        case ["-c", code]:
            compile(code, "document", "exec")
            return None
        case [script, *_]:
            return None if Path(script).suffix == ".py" else f"not understood: {script}"
    return "not understood"
