"""What the arguments of the wrapper mean."""

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.runtime.attempt import Claimant
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.supervisor import Supervisor, say

_EXIT_USAGE = 2
_WITH_VALUE = ("--submission", "--run", "--runs", "--index", "--parallel")
_ALONE = ("--requeue",)


def run(arguments: Sequence[str]) -> int:
    """Do what the wrapper is asked for; signals are held back already.

    Args:
        arguments: Of the wrapper.

    Returns:
        The exit code.
    """
    try:
        options, command = _parse(arguments)
        directories = _directories(options)
        supervisor = Supervisor(
            command,
            Claimant.of_environment(int(options["--submission"])),
            parallel=int(options.get("--parallel", 1)),
            requeue="--requeue" in options,
        )
    except KeyError as error:
        say(f"{error.args[0]} is missing; see tasks/runtime/wrapper.py")
        return _EXIT_USAGE
    except (OSError, ValueError) as error:
        say(f"cannot tell what to run: {error}")
        return _EXIT_USAGE
    return supervisor.run(directories)


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take the arguments apart; argparse would take as long as all the rest of the start.

    Returns:
        Option -> value, and the command.

    Raises:
        KeyError: There is no command.
        ValueError: An option is unknown, or lacks its value.
    """
    options: dict[str, str] = {}
    left = iter(arguments)
    for name in left:
        if name == "--":
            command = list(left)
            if command:
                return options, command
            break
        if name in _ALONE:
            options[name] = ""
        elif name in _WITH_VALUE:
            options[name] = next(left, "")
        else:
            known = ", ".join((*_WITH_VALUE, *_ALONE))
            raise ValueError(f"unknown argument {name}; there are {known}, and -- COMMAND")
    raise KeyError("-- COMMAND")


def _directories(options: dict[str, str]) -> list[RunDirectory]:
    """Return the runs that are meant.

    Raises:
        KeyError: It is not said which.
        OSError: The list cannot be read.
        ValueError: It is no list, or too short.
    """
    if "--run" in options:
        return [RunDirectory(Path(options["--run"]).absolute())]
    paths = json.loads(Path(options["--runs"]).read_bytes())
    if "--parallel" not in options:
        index = int(options["--index"])
        if not 0 <= index < len(paths):
            raise ValueError(f"{options['--runs']} has {len(paths)} runs, number {index} is asked")
        paths = [paths[index]]
    return [RunDirectory(Path(path).absolute()) for path in paths]
