"""``watershed plan-training``: which partition trains a model fastest on a machine."""

import json
import shlex
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.base import Fault
from flows.arguments import EXIT_CONFIGURATION, EXIT_FAILED, give_up, leave, say
from flows.console import make_console
from flows.plan_files import plan_text, write_plan
from flows.plan_json import as_json
from flows.plan_tables import print_training_plan
from flows.plan_wishes import PREFETCH, read_wish
from tasks.zero.planner import plan
from tasks.zero.planning.plans import Plan, PlanError, Wish

PLAN_EXAMPLE = (
    "Example:  watershed plan-training --model gpt-20b --topology frontier --devices 384 "
    "--batch-tokens 4M"
)

_FILE_WIDTH = 100
_OPTIONS = {
    "model": "--model",
    "topology": "--topology",
    "ranks": "--devices",
    "devices": "--devices",
    "batch_tokens": "--batch-tokens",
    "sequence": "--sequence",
    "dtype": "--dtype",
    "engine": "--engine",
    "memory": "--memory",
    "prefetch": "--prefetch",
}
"""Field of a fault -> the option that sets it."""


def plan_training(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Preset of the model, such as gpt-20b.")
    ],
    topology: Annotated[
        str, typer.Option("--topology", metavar="NAME", help="Machine: a shipped name, or a file.")
    ],
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="Devices, one rank each.")],
    batch_tokens: Annotated[
        str,
        typer.Option("--batch-tokens", metavar="COUNT", help="Tokens of a train step, such as 4M."),
    ],
    sequence: Annotated[
        int, typer.Option("--sequence", metavar="TOKENS", help="Tokens of one sequence.")
    ] = 2048,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Type of weights and activations.")
    ] = "bfloat16",
    engine: Annotated[str, typer.Option("--engine", help="ours, deepspeed or fsdp2.")] = "ours",
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="BYTES", help="To use of a device. Default: all it has."),
    ] = None,
    prefetch: Annotated[
        str,
        typer.Option(
            "--prefetch", metavar="NUMBERS", help="Blocks to gather ahead, to choose from."
        ),
    ] = PREFETCH,
    top: Annotated[int, typer.Option("--top", min=1, max=1000, help="Partitions to list.")] = 10,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the best one as a study in YAML."),
    ] = None,
    *,
    exact: Annotated[
        bool, typer.Option("--exact", help="Round nothing on the wire: no INT8, no INT4.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the FILE of --write.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Find the partition, formats and micro-batch that train a model fastest, before anything runs.

    Every nested partition is searched, with every format on the wire, micro-batch and
    recomputation that fits in memory. All numbers are predictions of the cost model; where the
    machine's file has peaks instead of measured links, that is said.

    Exit codes: 0 planned, 1 the file cannot be written, 2 there is no such plan.
    """
    raw = {
        "model": model,
        "topology": topology,
        "ranks": devices,
        "sequence": sequence,
        "dtype": dtype,
        "engine": engine,
    }
    if write is not None and write.exists() and not force:
        give_up(_there(write), EXIT_FAILED)
    try:
        wish = read_wish(raw, batch_tokens, memory, prefetch, is_exact=exact, top=top)
        found = plan(wish)
    except PlanError as error:
        _refuse(error.faults)
    if write is not None:
        _write(write, topology, wish, found, force=force)
    if as_data:
        typer.echo(json.dumps(as_json(wish, found), indent=2))
    else:
        print_training_plan(make_console(_FILE_WIDTH), wish, found)


def _write(path: Path, topology: str, wish: Wish, found: Plan, *, force: bool) -> None:
    try:
        write_plan(path, plan_text(path.stem, topology, wish, found), may_replace=force)
    except FileExistsError:
        give_up(_there(path), EXIT_FAILED)
    except OSError as error:
        give_up(f"{path} cannot be written: {error.strerror}", EXIT_FAILED)
    say(f"{path}: written; try  watershed check {shlex.quote(str(path))}")


def _there(path: Path) -> str:
    return f"{path} is there already; name another file, or add --force"


def _refuse(faults: list[Fault]) -> NoReturn:
    for fault in faults:
        first, *_ = fault.path.split(".")
        is_whole = fault.path == first or first == "model"
        option = _OPTIONS.get(first, fault.path) if is_whole else fault.path
        say(f"{option}: {fault.message}")
    leave(EXIT_CONFIGURATION)
