"""What the commands have in common: their arguments, how they speak, and how they end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.allowed import leaf_paths
from configs.base import Fault
from configs.checks import check_study
from configs.directories import RUNS_DIR_VARIABLE, runs_directory
from configs.federated import FederatedExperiment
from configs.launchers import SlurmLauncherConfig
from configs.loading import ConfigError, load_study
from configs.study import Study
from configs.training import TrainingExperiment
from flows.finding import find_own_study, find_study, known_runs
from tasks.runtime.errors import DamagedFileError
from tasks.slurm.errors import NotScriptable, SlurmError
from tasks.slurm.ledger_file import LedgerError
from tasks.steps.launching import launch_faults
from tasks.steps.predictability import predictability
from tasks.tracking.study_directory import StudyDirectory

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


def _launcher_fields() -> list[str]:
    return [f"launcher.{path}" for path in leaf_paths(SlurmLauncherConfig)]


def _complete_setting(incomplete: str) -> list[str]:
    fields = [*leaf_paths(FederatedExperiment), *leaf_paths(TrainingExperiment)]
    known = dict.fromkeys(["launcher", *fields, *_launcher_fields()])
    return [f"{path}=" for path in known if path.startswith(incomplete)]


def _complete_launcher(incomplete: str) -> list[str]:
    return [f"{path}=" for path in _launcher_fields() if path.startswith(incomplete)]


def _complete_run(context: typer.Context, incomplete: str) -> list[str]:
    runs_dir = runs_directory(context.params.get("runs_dir"))
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
        help="Change a field of the base experiment, such as algorithm.server_lr=0.5, or of the "
        "launcher, such as launcher.partition=gpu; the value is YAML. Can be given again.",
        autocompletion=_complete_setting,
    ),
]
LauncherSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="launcher.FIELD=VALUE",
        help="Change a field of the launcher, such as launcher.memory=32G; the value is YAML. The "
        "experiment stays as it is. Can be given again.",
        autocompletion=_complete_launcher,
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
OnlyRun = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="A run's directory or its name, or a study's name for its newest run. May be left out "
        "where only one can be meant.",
        autocompletion=_complete_run,
    ),
]
RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir",
        metavar="DIR",
        envvar=RUNS_DIR_VARIABLE,
        help="Directory of all runs, and of MLflow's.",
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        min=1,
        metavar="N",
        help="Most jobs at a time. Default: the cores, or one for a training.",
    ),
]


def checked_study(
    path: Path, settings: list[str], *, must_be_launchable: bool = False
) -> Study | None:
    """Read and check a study, and print what is to be said about it.

    Args:
        path: The file.
        settings: Overrides of the command line.
        must_be_launchable: Whether Slurm must be here, if the study asks for it.

    Returns:
        The study; None if it is faulty.
    """
    try:
        study = load_study(path, settings)
    except ConfigError as error:
        print_faults(path, error.faults)
        return None
    findings = check_study(study)
    launching = launch_faults(study)
    predictable = predictability(study)
    notes = [*findings.notes, *predictable.notes]
    faults = [*findings.faults, *predictable.faults]
    if must_be_launchable:
        faults += launching
    else:  # on a laptop there is no Slurm to ask
        faults += [fault for fault in launching if fault.path != "launcher"]
        notes += [str(fault) for fault in launching if fault.path == "launcher"]
    for note in notes:
        typer.echo(f"{path}: note: {note}")
    for warning in findings.warnings:
        typer.echo(f"{path}: warning: {warning}")
    print_faults(path, faults)
    return None if faults else study


def print_faults(path: Path, faults: list[Fault]) -> None:
    """Print faults, each in a line of its own that begins with the file's name."""
    for fault in faults:
        say(f"{path}: {fault}")


def found_study(name: str | None, runs_dir: Path, *, must_be_own: bool = False) -> StudyDirectory:
    """Find a run by what the user has typed; say what there is, and exit, if there is none.

    Args:
        name: What was typed, see ``find_study``.
        runs_dir: Directory of all runs.
        must_be_own: Whether something is done with it that another user's run is not trusted for.
    """
    try:
        directory = (find_own_study if must_be_own else find_study)(name, runs_dir)
        directory.read_study()
    except LookupError as error:
        give_up(str(error.args[0]), EXIT_CONFIGURATION)
    except DamagedFileError as fault:
        give_up(str(fault), EXIT_CONFIGURATION)
    return directory


@contextmanager
def faults_in_words() -> Iterator[None]:
    """End with a message, and no traceback, for what is not the program's fault.

    Yields:
        Nothing.

    Raises:
        Exit: Something has gone wrong.
    """
    try:
        yield
    except LookupError as error:
        give_up(str(error.args[0]), EXIT_CONFIGURATION)
    except (LedgerError, NotScriptable, SlurmError) as error:
        give_up(str(error), EXIT_FAILED)
    except OSError as error:
        give_up(f"{error.filename or 'a file'}: {error.strerror}", EXIT_FAILED)


def say(message: str) -> None:
    """Print a line that is about the command, not its result."""
    typer.echo(message, err=True)


def give_up(message: str, code: int) -> NoReturn:
    """Say why, and exit.

    Args:
        message: Why.
        code: Exit code.

    Raises:
        Exit: Always.
    """
    say(message)
    leave(code)


def leave(code: int) -> NoReturn:
    """Exit.

    Args:
        code: Exit code.

    Raises:
        Exit: Always.
    """
    raise typer.Exit(code)
