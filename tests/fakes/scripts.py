"""Batch scripts: how the fake sbatch reads them, and short ones for tests."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.launchers import time_limit_s
from tests.fakes.jobs import Request

_SHORT = {
    "-J": "job-name",
    "-a": "array",
    "-p": "partition",
    "-t": "time",
    "-N": "nodes",
    "-n": "ntasks",
    "-c": "cpus-per-task",
    "-o": "output",
    "-x": "exclude",
    "-H": "hold",
    "-D": "chdir",
}
_FLAGS = {"parsable", "hold", "requeue", "no-requeue", "exclusive"}
_TASKS = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


class Invalid(Exception):  # noqa: N818  what sbatch says
    """What is asked for is refused; the message is what sbatch says."""


@dataclass(frozen=True)
class Size:
    """What the cluster offers.

    Attributes:
        partitions: Names of the partitions, the default one first.
        num_nodes: Nodes.
        cpus: CPUs of each.
        gpus: GPUs of each.
        memory_mb: Memory of each.
        max_array_size: Ids of tasks are below it.
        hidden: Partitions with Hidden=YES, or that the user may not use any more.
    """

    partitions: tuple[str, ...] = ("batch", "debug", "preempt")
    num_nodes: int = 4
    cpus: int = 16
    gpus: int = 0
    memory_mb: int = 64_000
    max_array_size: int = 20_001
    hidden: tuple[str, ...] = ()


def write_script(parent_dir: Path, name: str = "ws-a-1", *options: str, body: str = "true") -> Path:
    """Write a batch script, in a directory of its own.

    Args:
        parent_dir: Where the directory is made.
        name: Name of the directory, and of the job.
        options: Of sbatch, such as ``--array=0-9``.
        body: What it runs.

    Returns:
        The script.
    """
    directory = parent_dir / name
    directory.mkdir(exist_ok=True)
    script = directory / "job.sh"
    lines = ["#!/bin/bash", f"#SBATCH --job-name={name}", *(f"#SBATCH {o}" for o in options)]
    script.write_text("\n".join([*lines, "", body, ""]))
    return script


def read_request(argv: Sequence[str], size: Size) -> Request:
    """Read the command line of sbatch and the script that it names.

    Args:
        argv: The command line.
        size: What the cluster offers.

    Returns:
        What is asked for.

    Raises:
        Invalid: It is refused.
    """
    options, rest = _options(argv[1:])
    script = Path(rest[0]) if rest else Path("(none)")
    try:
        text = script.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        raise Invalid(f"Unable to open file {script}") from None
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!"):
        raise Invalid("This does not look like a batch script.  The first")
    options = _options(_directives(lines))[0] | options
    request = replace(_request(script, options, size), text=text)
    _check(request, options, size)
    return request


def _directives(lines: Iterable[str]) -> list[str]:
    words: list[str] = []
    for line in lines:
        if line.startswith("#SBATCH"):
            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return words


def _options(words: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    words = list(words)
    while words and words[0].startswith("-"):
        name, is_given, value = words.pop(0).partition("=")
        name = _SHORT.get(name, name.removeprefix("--"))
        if name not in _FLAGS and not is_given:
            value = words.pop(0)
        options[name] = value
    return options, words


def _request(script: Path, options: dict[str, str], size: Size) -> Request:
    tasks, _, throttle = options.get("array", "").partition("%")
    before_s = re.fullmatch(r"B:(?:USR1|SIGUSR1|10)@(\d+)", options.get("signal", ""))
    gpus = options.get("gpus-per-node") or options.get("gres", "").removeprefix("gpu:") or "0"
    exclude = options.get("exclude", "")
    return Request(
        script=script,
        name=options.get("job-name", script.name),
        partition=options.get("partition", size.partitions[0]).partition(",")[0],
        directory=Path(options.get("chdir", ".")),
        qos=options.get("qos", ""),
        nodes=int(options.get("nodes", "1")),
        cpus=int(options.get("cpus-per-task", "1")) * int(options.get("ntasks-per-node", "1")),
        gpus=int(gpus.rpartition(":")[2]),
        time_limit_s=time_limit_s(options.get("time", "1:00:00")),
        tasks=tasks_of(tasks) if tasks else (),
        throttle=int(throttle or 0),
        exclude=frozenset(expand_hosts(exclude)) if exclude else frozenset(),
        requeue="no-requeue" not in options,
        signal_before_s=int(before_s[1]) if before_s else 0,
        hold="hold" in options,
        output=options.get("output", "slurm-%A_%a.out" if tasks else "slurm-%j.out"),
    )


def tasks_of(text: str) -> tuple[int, ...]:
    """Return the ids in ``0-9:3,12``.

    Args:
        text: As the option --array has it, without the most that run at a time.

    Raises:
        Invalid: It is no such text.
    """
    tasks: list[int] = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part)
        if match is None:
            raise Invalid("Batch job submission failed: Invalid job array specification")
        first, last, step = match.groups()
        tasks += range(int(first), int(last or first) + 1, int(step or 1))
    return tuple(tasks)


def _check(request: Request, options: dict[str, str], size: Size) -> None:
    failed = "Batch job submission failed"
    for name in filter(None, options.get("partition", "").split(",")):
        if name not in size.partitions:
            raise Invalid(
                f"invalid partition specified: {name}\n{failed}: Invalid partition name specified"
            )
    if "account" in options and options["account"].startswith("no"):
        raise Invalid(f"{failed}: Invalid account or account/partition combination specified")
    if request.tasks and max(request.tasks) >= size.max_array_size:
        raise Invalid(f"{failed}: Invalid job array specification")
    if request.gpus > size.gpus or request.cpus > size.cpus:
        raise Invalid(f"{failed}: Requested node configuration is not available")


def expand_hosts(text: str) -> list[str]:
    """Return the names in ``node01,node[03-05,07]``."""
    names: list[str] = []
    for prefix, inner in re.findall(r"([^,\[\]]+)(?:\[([^]]*)\])?", text):
        if not inner:
            names.append(prefix)
        for part in filter(None, inner.split(",")):
            first, _, last = part.partition("-")
            names += [
                f"{prefix}{number:0{len(first)}d}"
                for number in range(int(first), int(last or first) + 1)
            ]
    return names
