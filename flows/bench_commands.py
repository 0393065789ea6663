"""The commands that measure this machine: ``watershed bench gpu``."""

import subprocess
import sys

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


@bench.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example:  watershed bench gpu",
)
def gpu(context: typer.Context) -> None:
    """Measure a GPU: the engine against plain training, the quantizers against a copy.

    Further arguments go to the benchmark.
    """
    ended = subprocess.run([sys.executable, "-m", _GPU, *context.args], check=False)
    leave(ended.returncode)
