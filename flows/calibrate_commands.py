"""The command that measures a machine: ``watershed calibrate``."""

import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from configs.base import Fault
from configs.calibration import Calibration
from configs.faults import faults_in
from configs.launchers import SlurmLauncherConfig
from configs.topology import Topology, is_topology_file
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    RunsDir,
    give_up,
    leave,
    say,
)
from flows.console import make_console
from flows.exit_codes import EXIT_CTRL_C
from tasks.slurm.errors import SlurmError
from tasks.slurm.ledger_file import LedgerError
from tasks.slurm.local import num_cores
from tasks.steps.calibrating import CalibrationError, calibrate_locally, calibrate_on_slurm
from tasks.zero.calibrate_file import Calibrated, topology_text, write_topology

_RANKS_PER_CORE = 16


def calibrate(  # one option each, as typer wants it
    topology: Annotated[
        str, typer.Argument(metavar="TOPOLOGY", help="The levels: a shipped name, or a YAML file.")
    ],
    ranks: Annotated[
        int | None,
        typer.Option(help="Devices that measure: whole nodes. Default: one node."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: the name with -measured.yaml, here."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="Default: float32 on CPUs, bfloat16 on GPUs.")
    ] = None,
    hidden: Annotated[
        str, typer.Option(metavar="H,H,...", help="Widths of the blocks that are measured.")
    ] = "",
    tokens: Annotated[int | None, typer.Option(help="Tokens of a block's micro-batch.")] = None,
    least_s: Annotated[
        float, typer.Option(help="Least time of one measurement, s; more is steadier.")
    ] = 0.3,
    launcher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure by a job of Slurm: YAML of what stands below launcher: in a study.",
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Measure a machine's links and devices by short jobs, and write its topology file.

    All ranks measure at once, as they work in a training. Takes two or three minutes; the machine
    should be idle. Exit codes: 0 written, 1 failed, 2 the arguments are faulty, 130 interrupted.
    """
    asked = {
        "topology": topology,
        "device": device,
        "dtype": dtype,
        "tokens": tokens,
        "hidden": _numbers(hidden),
        "least_s": least_s,
    }
    calibration = _calibration(asked, ranks)
    config = None if launcher is None else _launcher(launcher)
    most = _RANKS_PER_CORE * num_cores()
    if config is None and calibration.ranks > most:
        message = f"calibrate: ranks: {calibration.ranks:,} processes of {num_cores()} cores would "
        message += f"measure their turns; use {most} at most, or a cluster: --launcher FILE"
        give_up(message, EXIT_CONFIGURATION)
    output = output or Path(f"{calibration.topology.name}-measured.yaml")
    _check_output(output, force=force)
    try:
        with _ended_by_signals():
            found = _measured(calibration, config, runs_dir)
        command = shlex.join(["watershed", *sys.argv[1:]])
        text = topology_text(found, calibration, name=output.stem, command=command)
        write_topology(output, text, force=force)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        leave(EXIT_CTRL_C)
    except (CalibrationError, SlurmError, LedgerError, FileExistsError) as error:
        give_up(str(error), EXIT_FAILED)
    except OSError as error:
        give_up(f"{error.filename or output}: {error.strerror}", EXIT_FAILED)
    _print(found.topology)
    typer.echo(f"Wrote {output}; use it with: topology: {_as_named(output)}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End by SIGTERM and SIGHUP as by Ctrl-C: the job is in a session of its own."""
    signums = (signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.signal(signum, signal.default_int_handler) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _calibration(asked: dict[str, Any], ranks: int | None) -> Calibration:
    """Return what to measure; of one node, if the user does not say."""
    raw = {name: value for name, value in asked.items() if value is not None}
    faults = faults_in(Calibration, {**raw, "ranks": 1 if ranks is None else ranks})
    if not faults and ranks is None:
        ranks = Calibration.model_validate({**raw, "ranks": 1}).topology.ranks_per_node
    if faults:
        _give_up("calibrate", faults)
    return Calibration.model_validate({**raw, "ranks": ranks})


def _launcher(path: Path) -> SlurmLauncherConfig:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        give_up(f"{path}: cannot be read: {error.strerror}", EXIT_CONFIGURATION)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        give_up(f"{path}: is no valid YAML: {error}", EXIT_CONFIGURATION)
    raw = raw.get("launcher", raw) if isinstance(raw, dict) else raw
    if not isinstance(raw, dict):
        give_up(f"{path}: holds no mapping of keys to values", EXIT_CONFIGURATION)
    if faults := faults_in(SlurmLauncherConfig, raw):
        _give_up(str(path), faults)
    return SlurmLauncherConfig.model_validate(raw)


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word]
    except ValueError:
        give_up(f"--hidden {text}: write numbers with commas, such as 256,512", EXIT_CONFIGURATION)


def _give_up(source: str, faults: list[Fault]) -> None:
    for fault in faults:
        say(f"{source}: {fault}")
    leave(EXIT_CONFIGURATION)


def _check_output(output: Path, *, force: bool) -> None:
    """Say before the measurement that its result could not be written."""
    if output.exists() and not force:
        message = f"{output} exists; take another name with --output, or replace it with --force"
        give_up(message, EXIT_CONFIGURATION)
    try:
        with tempfile.TemporaryFile(dir=output.resolve().parent):
            pass
    except OSError as error:
        give_up(f"{output}: cannot be written: {error.strerror}", EXIT_FAILED)


def _measured(
    calibration: Calibration, config: SlurmLauncherConfig | None, runs_dir: Path
) -> Calibrated:
    if config is None:
        with tempfile.TemporaryDirectory(prefix="watershed-calibrate-") as directory:
            return calibrate_locally(calibration, Path(directory))
    name = f"calibrate-{calibration.topology.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    study = runs_dir / name
    study.mkdir(mode=0o700, parents=True)
    say(f"The job is in {study}")
    return calibrate_on_slurm(calibration, config, study)


def _as_named(output: Path) -> str:
    return str(output) if is_topology_file(str(output)) else f"./{output}"


def _print(topology: Topology) -> None:
    links = Table("level", "ranks", "GB/s", "shared by", "latency, us", "interference")
    for level in topology.level_names():
        if link := topology.link(level):
            size = next((str(one.ranks) for one in topology.levels if one.name == level), "")
            numbers = (link.gb_per_s, link.shared_by, link.latency_us, link.interference)
            links.add_row(level, size, *(f"{number:g}" for number in numbers))
    device = topology.device
    rates = Table("dtype", "GFLOPs of a forward pass", "TFLOPS")
    for dtype, measured in device.rates.items():
        for rate in measured:
            rates.add_row(dtype, f"{rate.gflops:g}", f"{rate.tflops:g}")
    console = make_console()
    if links.row_count:
        console.print(links)
    console.print(rates)
    console.print(
        f"GB/s: memory {device.memory_gb_per_s:g}, quantizers {device.quantize_gb_per_s:g}, "
        f"optimizer {device.optimizer_gb_per_s:g}"
    )
