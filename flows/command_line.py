"""The command line: ``watershed check | run | show | resume | bench``, and the commands for jobs.

Prefect, MLflow and torch take seconds to import, and none of them is imported here: the flow runs
in a process of its own.
"""

import sys
import tempfile
import traceback
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from configs.measuring import points_to_run
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    File,
    Files,
    Parallel,
    Run,
    RunsDir,
    Settings,
    checked_study,
    faults_in_words,
    found_study,
    give_up,
    leave,
    say,
)
from flows.bench_commands import bench
from flows.calibrate_commands import calibrate
from flows.compare_commands import COMPARE_EXAMPLE, compare
from flows.console import make_console
from flows.deploy_commands import deploy_deployments
from flows.finding import is_complete
from flows.job_commands import add_to
from flows.nightly_commands import nightly
from flows.plan_training_commands import PLAN_EXAMPLE, plan_training
from flows.register_commands import REGISTER_EXAMPLE, register
from flows.running import run_in_background, run_to_the_end, say_how_to_resume
from flows.summary import print_run, print_summary
from flows.up_commands import up
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.steps.creation import create_study_directory, restore_points
from tasks.tracking.history import GOOD

app = typer.Typer(
    name="watershed",
    help="Anarchic federated averaging and hierarchical ZeRO, from one YAML file to a comparison "
    "in MLflow.",
    epilog="Begin with:  watershed run configs/studies/digits.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        study = checked_study(path, settings)
        has_faults = has_faults or study is None
        if study is not None:
            num_points, num_jobs = len(study.points()), len(points_to_run(study))
            told = f", {num_points - num_jobs} of them predicted only" * (num_jobs < num_points)
            typer.echo(f"{path}: ok, {num_points} run{'s' if num_points > 1 else ''}{told}")
    if has_faults:
        leave(EXIT_CONFIGURATION)


@app.command(
    epilog="Example:  watershed run configs/studies/digits.yaml --set rounds=50 --parallel 4"
)
def run(
    file: File,
    settings: Settings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
    parallel: Parallel = None,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Run it in the background, and return at once.")
    ] = False,
) -> None:
    """Run a study: every point of its grid a job, then a table, a figure and a report.

    Nothing needs to be started beforehand. Ctrl-C stops it, so that `watershed resume` can
    continue it. Exit codes: 0 all points finished, 1 some failed, 2 the configuration is faulty,
    130 interrupted.
    """
    study = checked_study(file, settings, must_be_launchable=True)
    if study is None:
        leave(EXIT_CONFIGURATION)
    try:
        directory = create_study_directory(study, runs_dir, datetime.now().astimezone())
    except OSError as error:
        give_up(
            f"cannot make a directory in {runs_dir}: {error.strerror}; name another one with "
            "--runs-dir",
            EXIT_CONFIGURATION,
        )
    if detach:
        run_in_background(directory, parallel)
        return
    run_to_the_end(directory, parallel)


@app.command(epilog="Example:  watershed resume digits")
def resume(name: Run = None, runs_dir: RunsDir = Path("runs"), parallel: Parallel = None) -> None:
    """Continue a run: what was interrupted or failed goes on from its last checkpoint.

    Points that have finished are kept. One of which a file cannot be read, as it is cut off or of
    another version, is left as it is; one whose directory is gone runs again. Exit codes as those
    of `watershed run`.
    """
    directory = found_study(name, runs_dir, must_be_own=True)
    if not is_alive(RunDirectory(directory.path)):
        with faults_in_words():
            for run in restore_points(directory):
                say(f"{run.job} was missing, and is made anew")
    if is_complete(directory):
        rows = print_summary(make_console(), directory)
        typer.echo("All points have finished; there is nothing to resume.")
        leave(EXIT_FAILED if any(row.state == "damaged" for row in rows) else 0)
    run_to_the_end(directory, parallel)


@app.command(epilog="Example:  watershed show digits")
def show(name: Run = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Show how a run stands: its table, its files, how to open MLflow and Prefect.

    Of the directory of one grid point: its last measurements and the end of its output. Exit code
    1 if a file of a point cannot be read; the other points are shown all the same.
    """
    console = make_console()
    if name is not None and (Path(name) / "job.json").is_file():
        print_run(console, RunDirectory(Path(name)))
        return
    directory = found_study(name, runs_dir)
    is_running = is_alive(RunDirectory(directory.path))
    state = "is running" if is_running else "is not running"
    console.print(Text.assemble((directory.path.name, "bold"), f" {state}"))
    states = {row.state for row in print_summary(console, directory)}
    if not is_running and states - GOOD - {"damaged"}:
        say_how_to_resume(directory)
    if "damaged" in states:
        leave(EXIT_FAILED)


add_to(app)
app.command(epilog="Example:  watershed nightly configs/studies/nightly.yaml")(nightly)
app.command(epilog="Example:  watershed up --data runs")(up)
app.command("deploy", epilog="Example:  watershed deploy --pool hpc --pool-type slurm")(
    deploy_deployments
)
app.command(epilog="Example:  watershed calibrate mini --ranks 8")(calibrate)
app.add_typer(bench)
app.command(epilog=PLAN_EXAMPLE)(plan_training)
app.command(epilog=COMPARE_EXAMPLE)(compare)
app.command(epilog=REGISTER_EXAMPLE)(register)


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
    except DamagedFileError as fault:
        say(str(fault))
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  the entry point: no user has to read a traceback
        with tempfile.NamedTemporaryFile(
            "w", prefix="watershed-", suffix=".log", delete=False
        ) as file:
            traceback.print_exc(file=file)
        say(f"internal error: {type(error).__name__}: {error}\nPlease report it, with {file.name}")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
