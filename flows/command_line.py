"""The command line: ``watershed check | run | show | resume``.

Prefect, MLflow and torch take seconds to import, and none of them is imported here: the flow runs
in a process of its own.
"""

import os
import sys
import tempfile
import traceback
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.text import Text

from configs.allowed import leaf_paths
from configs.base import Fault
from configs.checks import check_study
from configs.federated import FederatedExperiment
from configs.loading import ConfigError, load_study
from configs.study import Study
from flows.console import make_console, show_lines, show_live
from flows.finding import find_study, is_complete, known_runs
from flows.orchestration import last_words, snapshots, started_flow, stop_requests
from flows.summary import print_run, print_summary, program
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.steps.creation import create_study_directory
from tasks.tracking.study_directory import StudyDirectory

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="watershed",
    help="Anarchic federated averaging, from one YAML file to a comparison in MLflow.",
    epilog="Begin with:  watershed run configs/studies/digits.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _complete_setting(incomplete: str) -> list[str]:
    return [f"{path}=" for path in leaf_paths(FederatedExperiment) if path.startswith(incomplete)]


def _complete_run(context: typer.Context, incomplete: str) -> list[str]:
    runs_dir = Path(context.params.get("runs_dir") or "runs")
    names = [run.path.name for run in known_runs(runs_dir)]
    return [name for name in reversed(names) if name.startswith(incomplete)]


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Studies, or single experiments, in YAML.")
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A study, or a single experiment, in YAML.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field of the base experiment, such as algorithm.server_lr=0.5; the value is "
        "YAML. Can be given again.",
        autocompletion=_complete_setting,
    ),
]
Run = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="A run's directory or its name, or a study's name for its newest run. Default: the "
        "newest run of all.",
        autocompletion=_complete_run,
    ),
]
RunsDir = Annotated[
    Path, typer.Option("--runs-dir", metavar="DIR", help="Directory of all runs, and of MLflow's.")
]
Parallel = Annotated[
    int | None,
    typer.Option("--parallel", min=1, metavar="N", help="Most jobs at a time. Default: the cores."),
]


def _print_version(wanted: bool) -> None:  # noqa: FBT001  as typer calls it
    if wanted:
        typer.echo(f"watershed {version('watershed')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    del version


@app.command(epilog="Example:  watershed check configs/studies/*.yaml --set worker.lr=0.5")
def check(files: Files, settings: Settings = []) -> None:  # noqa: B006  as typer wants it
    """Check studies without running them; all faults are reported at once.

    Exit code 2 if there are any.
    """
    has_faults = False
    for path in files:
        study = _checked(path, settings)
        has_faults = has_faults or study is None
        if study is not None:
            num_points = len(study.points())
            typer.echo(f"{path}: ok, {num_points} run{'s' if num_points > 1 else ''}")
    if has_faults:
        _exit(EXIT_CONFIGURATION)


@app.command(
    epilog="Example:  watershed run configs/studies/digits.yaml --set rounds=50 --parallel 4"
)
def run(
    file: File,
    settings: Settings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
    parallel: Parallel = None,
) -> None:
    """Run a study: every point of its grid a job, then a table, a figure and a report.

    Nothing needs to be started beforehand. Ctrl-C stops it, so that `watershed resume` can
    continue it. Exit codes: 0 all points finished, 1 some failed, 2 the configuration is faulty,
    130 interrupted.
    """
    study = _checked(file, settings)
    if study is None:
        _exit(EXIT_CONFIGURATION)
    try:
        directory = create_study_directory(study, runs_dir, datetime.now().astimezone())
    except OSError as error:
        _give_up(f"cannot make a directory in {runs_dir}: {error.strerror}", EXIT_FAILED)
    _run_to_the_end(directory, parallel)


@app.command(epilog="Example:  watershed resume digits")
def resume(name: Run = None, runs_dir: RunsDir = Path("runs"), parallel: Parallel = None) -> None:
    """Continue a run: what was interrupted or failed goes on from its last checkpoint.

    Points that have finished are kept.
    """
    directory = _found(name, runs_dir)
    if is_complete(directory):
        print_summary(make_console(), directory)
        typer.echo("All points have finished; there is nothing to resume.")
        return
    _run_to_the_end(directory, parallel)


@app.command(epilog="Example:  watershed show digits")
def show(name: Run = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Show how a run stands: its table, its files, how to open MLflow and Prefect.

    Of the directory of one grid point: its last measurements and the end of its output.
    """
    console = make_console()
    if name is not None and (Path(name) / "job.json").is_file():
        print_run(console, RunDirectory(Path(name)))
        return
    directory = _found(name, runs_dir)
    is_running = is_alive(RunDirectory(directory.path))
    state = "is running" if is_running else "is not running"
    console.print(Text.assemble((directory.path.name, "bold"), f" {state}"))
    rows = print_summary(console, directory)
    if not is_running and any(row.state != "finished" for row in rows):
        _say_how_to_resume(directory)


def _run_to_the_end(directory: StudyDirectory, parallel: int | None) -> NoReturn:
    """Run what has not finished, show it, sum it up, and exit."""
    if is_alive(RunDirectory(directory.path)):
        _give_up(
            f"{directory.path} is running already; see how it stands with: "
            f"{program('watershed')} show {directory.path}",
            EXIT_FAILED,
        )
    console = make_console()
    with stop_requests() as stops, started_flow(directory, parallel) as process:
        seen = snapshots(directory, process, stops)
        if console.is_terminal:
            show_live(console, directory.path.name, seen)
        else:
            show_lines(console, seen)
    rows = print_summary(console, directory)
    states = {row.state for row in rows}
    if states <= {"finished"}:
        _exit(0)
    if not stops and not states & {"failed"}:
        _say(f"The flow itself has stopped: {last_words(directory, process.returncode)}")
        if api := os.environ.get("PREFECT_API_URL"):
            _say(f"Is a Prefect server at {api}? Without PREFECT_API_URL a temporary one is used.")
    _say_how_to_resume(directory)
    _exit(EXIT_INTERRUPTED if stops else EXIT_FAILED)


def _checked(path: Path, settings: list[str]) -> Study | None:
    """Read and check a study; print what is to be said about it."""
    try:
        study = load_study(path, settings)
    except ConfigError as error:
        _print_faults(path, error.faults)
        return None
    findings = check_study(study)
    for note in findings.notes:
        typer.echo(f"{path}: note: {note}")
    for warning in findings.warnings:
        typer.echo(f"{path}: warning: {warning}")
    _print_faults(path, findings.faults)
    return None if findings.faults else study


def _print_faults(path: Path, faults: list[Fault]) -> None:
    for fault in faults:
        _say(f"{path}: {fault}")


def _found(name: str | None, runs_dir: Path) -> StudyDirectory:
    try:
        directory = find_study(name, runs_dir)
        directory.read_study()
    except LookupError as error:
        _give_up(str(error.args[0]), EXIT_CONFIGURATION)
    except ValidationError:
        _give_up(f"{directory.study} is no study of this version", EXIT_CONFIGURATION)
    return directory


def _say_how_to_resume(directory: StudyDirectory) -> None:
    typer.echo(f"Continue with: {program('watershed')} resume {directory.path}")


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _give_up(message: str, code: int) -> NoReturn:
    _say(message)
    _exit(code)


def _exit(code: int) -> NoReturn:
    raise typer.Exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; default: the process's.

    Returns:
        The exit code.
    """
    try:
        app(args=argv, prog_name="watershed")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except Exception as error:  # noqa: BLE001  the entry point: no user has to read a traceback
        with tempfile.NamedTemporaryFile(
            "w", prefix="watershed-", suffix=".log", delete=False
        ) as file:
            traceback.print_exc(file=file)
        _say(f"internal error: {type(error).__name__}: {error}\nPlease report it, with {file.name}")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
