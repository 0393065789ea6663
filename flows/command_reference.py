"""The reference of the commands, made from them: ``python -m flows.command_reference``.

It is kept in ``docs/commands.md``; a test holds the two to be equal.
"""

import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer.main

from flows.command_line import app

_HEAD = """\
# Commands

Every command with its arguments and options; the same as `--help` says. Made from the command line
by `python -m flows.command_reference > docs/commands.md`.

## Exit codes

| code | means |
|---|---|
| 0 | done |
| 1 | begun, but not done: points failed, Slurm or a server does not answer, nothing was running |
| 2 | not begun: the configuration, an option or the name of a run is at fault |
| 75 | not begun: a night of this study runs already (`nightly`) |
| 130 | stopped by Ctrl-C or SIGTERM; what was running can be resumed |

Where a command has more to say of its codes, it says so below.

## Resume, retry, or run again

- **Stopped** (Ctrl-C, `watershed cancel`, a power cut), **or never begun**: `watershed resume RUN`.
  All points that have not finished go on, as they were configured. Where MLflow did not answer at
  the end, the same command sends what it lacks.
- **Failed, and the reason is gone** (a full disk, data not there): `watershed resume RUN`;
  `watershed retry RUN` takes the failed points alone.
- **Failed for want of memory, time or a node, on Slurm**: `watershed retry RUN --only oom --set
  launcher.memory=32G`. Only the launcher may change; it stays changed for this run. On this
  machine: `watershed retry RUN --parallel 1`.
- **The experiment was wrong**: `watershed run FILE`. Another experiment is another run.
- **A flow run in Prefect's UI**: *Retry* there does what `resume` does.

All of them keep what has finished; the rest goes on from its newest checkpoint. Both refuse a run
that is still running. What each class of failure means, and what is submitted again by itself:
[slurm.md](slurm.md#what-follows-a-failure).
"""


def command_reference() -> str:
    """Return the reference as Markdown: exit codes, then a section a command."""
    sections = [_HEAD, *(part for name, command in _commands() for part in _section(name, command))]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _commands() -> Iterator[tuple[str, Any]]:
    """Yield the commands with their names (typer brings a click of its own, hence no type)."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group
        inner = getattr(command, "commands", {"": command})
        yield from ((f"{name} {below}".strip(), one) for below, one in inner.items())


def _section(name: str, command: Any) -> Iterator[str]:  # noqa: ANN401  click's
    shown = [one for one in command.params if not one.hidden]
    needed = [_usage(one) for one in shown if one.param_type_name == "argument" or one.required]
    yield f"## {name}"
    yield f"`{' '.join(['watershed', name, *needed, '[OPTIONS]'])}`"
    yield cleandoc(command.help)
    if shown:
        rows = (f"| {_names(one)} | {_default(one)} | {_cell(one.help)} |" for one in shown)
        yield "\n".join(["| argument, option | default | meaning |", "|---|---|---|", *rows])
    if command.epilog:
        title, _, example = command.epilog.partition(":")
        yield f"{title}: `{example.strip()}`"


def _usage(parameter: Any) -> str:  # noqa: ANN401  click's
    is_option = parameter.param_type_name == "option"
    return f"{parameter.opts[0]} {parameter.metavar}" if is_option else str(parameter.metavar)


def _names(parameter: Any) -> str:  # noqa: ANN401  click's
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar}`"
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in parameter.opts)


def _default(parameter: Any) -> str:  # noqa: ANN401  click's
    if parameter.required:
        return "required"
    value = parameter.default
    is_told = isinstance(value, (int, float, str, Path)) and value is not False and value != ""
    parts = [parameter.envvar, str(value) if is_told else None]
    return ", else ".join(f"`{part}`" for part in parts if part)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(command_reference())
