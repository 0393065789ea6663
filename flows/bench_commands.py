"""The commands that measure this machine: ``watershed bench gpu``."""

import subprocess
import sys
from typing import Annotated, Literal

import typer

from flows.arguments import leave

_GPU = "tasks.zero.bench_gpu"

bench = typer.Typer(
    name="bench",
    help="Measure what this machine can do.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@bench.callback()
def _bench() -> None:
    """Keep the name of the only command."""


@bench.command(epilog="Example:  watershed bench gpu --topology my-machine.yaml")
def gpu(
    topology: Annotated[
        str,
        typer.Option(
            metavar="MACHINE", help="A machine's name or YAML file, which tells the device's peak."
        ),
    ] = "mini",
    model: Annotated[
        str, typer.Option(metavar="PRESET", help="Model to train, without and with the engine.")
    ] = "gpt-1.3b",
    device: Annotated[
        Literal["cuda", "cpu"],
        typer.Option(help="cpu tries the code; the speeds mean nothing there."),
    ] = "cuda",
    sequence: Annotated[int, typer.Option(min=1, help="Tokens a sequence.")] = 2048,
    micro_batch: Annotated[int, typer.Option(min=1, help="Sequences at a time.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Timed repeats, of everything.")] = 20,
    values: Annotated[
        int, typer.Option(min=1, help="Values that the quantization kernels work on.")
    ] = 2**28,
    *,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Do not let torch compile the model.")
    ] = False,
) -> None:
    """Measure a GPU: the engine against plain training, the quantizers against a copy.

    Exit codes: 0 measured, 2 there is no such device, or an option is faulty.
    """
    options = {
        "topology": topology,
        "model": model,
        "device": device,
        "sequence": sequence,
        "micro-batch": micro_batch,
        "steps": steps,
        "values": values,
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    arguments += ["--no-compile"] if no_compile else []
    ended = subprocess.run([sys.executable, "-m", _GPU, *arguments], check=False)
    leave(ended.returncode)
