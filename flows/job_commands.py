"""The commands for jobs: ``watershed plan | jobs | logs | why | cancel | retry | adopt``."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from configs.launchers import SlurmLauncherConfig
from configs.loading import ConfigError, with_settings
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    File,
    Parallel,
    Run,
    RunsDir,
    Settings,
    checked_study,
    found_study,
    give_up,
    leave,
    print_faults,
    say,
)
from flows.console import make_console
from flows.following import find_points, number_of, output_of
from flows.jobs import jobs_of, print_jobs, print_why, stop, take_over
from flows.plans import planned_batches, print_plan
from flows.running import run_to_the_end
from tasks.runtime.atomic_files import write_json
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.errors import NotScriptable, SlurmError
from tasks.slurm.explaining import slurm_output_of
from tasks.slurm.ledger_file import LedgerError
from tasks.slurm.liveness import is_alive
from tasks.slurm.states import FailureClass
from tasks.steps.launching import launch_faults
from tasks.tracking.study_directory import StudyDirectory

PointOption = Annotated[
    str | None,
    typer.Argument(
        metavar="[POINT]", help="Number of a grid point, from 0, or a part of its label."
    ),
]

_FAILURES = ", ".join(FailureClass)


def add_to(app: typer.Typer) -> None:
    """Add the commands to a command line.

    Args:
        app: The command line.
    """
    for command, example in (
        (plan, "watershed plan study.yaml --set launcher.partition=gpu"),
        (jobs, "watershed jobs digits"),
        (logs, "watershed logs -f digits 3"),
        (why, "watershed why digits"),
        (cancel, "watershed cancel digits"),
        (retry, "watershed retry digits --only oom --set launcher.memory=32G"),
        (adopt, "watershed adopt digits"),
    ):
        app.command(epilog=f"Example:  {example}")(command)


def plan(
    file: File,
    settings: Settings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Print the scripts that a study would submit to Slurm, and their node-hours.

    Nothing is submitted or written.
    """
    study = checked_study(file, settings)
    if study is None:
        leave(EXIT_CONFIGURATION)
    if not isinstance(study.launcher, SlurmLauncherConfig):
        give_up(
            f"{file}: launcher is local, so nothing would be submitted; see what would be with "
            "--set launcher=slurm",
            EXIT_CONFIGURATION,
        )
    name = f"{study.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    directory = StudyDirectory(runs_dir.resolve() / name)
    batches = planned_batches(study, study.launcher, directory)
    if not batches:
        typer.echo(f"{file}: all points are predicted only, so nothing would be submitted.")
        return
    with _faults_in_words():
        print_plan(make_console(), batches, runs_dir.resolve())


def jobs(
    name: Run = None,
    runs_dir: RunsDir = Path("runs"),
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Of all runs, also the jobs that are over.")
    ] = False,
) -> None:
    """List the jobs of a run, or all that are queued or running.

    What Watershed knows of them is shown; Slurm is not asked.
    """
    with _faults_in_words():
        if name is not None:
            entries = jobs_of(found_study(name, runs_dir).path.resolve())
        else:
            known = jobs_of(None)
            entries = [one for one in known if everything or not one.state.job_state.is_final]
    if not entries:
        typer.echo("No jobs of Slurm." if name or everything else "No jobs are queued or running.")
        return
    print_jobs(make_console(), entries, time.time())


def logs(
    name: Run = None,
    point: PointOption = None,
    runs_dir: RunsDir = Path("runs"),
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on while the run does; Ctrl-C ends only it.")
    ] = False,
) -> None:
    """Print the output of a grid point: what Slurm said, then what the job says."""
    with _faults_in_words():
        found = find_points(name, point, runs_dir)
        if len(found) > 1:
            give_up(_which_one(found), EXIT_CONFIGURATION)
        try:
            for text in output_of(found[0], slurm_output_of(found[0]), follow=follow):
                typer.echo(text, nl=False)
        except KeyboardInterrupt:
            leave(EXIT_INTERRUPTED)


def why(name: Run = None, point: PointOption = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Explain how runs failed, in words: every submission, and the last lines of output.

    Of a study, those points that did not finish.
    """
    with _faults_in_words():
        found = find_points(name, point, runs_dir)
        results = [run.read_result() for run in found]
        told = [
            run
            for run, result in zip(found, results, strict=True)
            if len(found) == 1
            or not ((result and result.status == "finished") or run.predicted_only.exists())
        ]
        if not told:
            typer.echo("All points have finished.")
        for run in told:
            print_why(make_console(), run)


def cancel(name: Run = None, point: PointOption = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Cancel a run, or one of its points; `watershed resume` can continue it.

    Only jobs of that run are touched.
    """
    with _faults_in_words():
        directory = StudyDirectory(found_study(name, runs_dir).path.resolve())
        is_local = not isinstance(directory.read_study().launcher, SlurmLauncherConfig)
        if point is not None and is_local:
            give_up("of a study on this machine only the whole run can be cancelled", EXIT_FAILED)
        runs = None if point is None else find_points(str(directory.path), point, runs_dir)
        if runs is not None and len(runs) > 1:
            give_up(_which_one(runs), EXIT_CONFIGURATION)
        num_jobs, num_left, ended_flow = stop(directory, runs)
    if num_left:
        again = f"run again: watershed cancel {directory.path.name}"
        give_up(f"{num_left} jobs have not stopped yet; {again}", EXIT_FAILED)
    if not num_jobs and not ended_flow:
        give_up(f"{directory.path.name}: nothing was running", EXIT_FAILED)
    count = f", {num_jobs} jobs of Slurm" if num_jobs else ""
    typer.echo(f"{directory.path.name}: cancelled{count}")


def _which_one(runs: Sequence[RunDirectory]) -> str:
    points = [f"  {number_of(run)}  {run.read_job().point}" for run in runs]
    return "\n".join(["Which one? Name its number:", *points])


def retry(
    name: Run = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="CLASS,...",
            help=f"Only what failed for these reasons: {_FAILURES}. Default: all that failed.",
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
    parallel: Parallel = None,
) -> None:
    """Run the failed points of a run again, from their last checkpoints.

    Fields of the launcher may be changed with --set, such as launcher.memory=32G.
    """
    classes = [one.strip() for one in only.split(",")] if only else []
    if unknown := [one for one in classes if one not in set(FailureClass)]:
        give_up(f"--only: unknown reason '{unknown[0]}'; known: {_FAILURES}", EXIT_CONFIGURATION)
    directory = found_study(name, runs_dir)
    study = directory.read_study()
    try:
        changed = with_settings(study, settings, only_below="launcher")
    except ConfigError as error:
        print_faults(directory.study, error.faults)
        leave(EXIT_CONFIGURATION)
    if is_alive(RunDirectory(directory.path)):
        give_up(f"{directory.path} is running; cancel it first, or wait", EXIT_FAILED)
    with _faults_in_words():
        points = _failed_points(directory, classes)
    if not points:
        typer.echo("Nothing to retry: no point has failed" + f" for {only}" * bool(only))
        return
    if changed != study:
        if faults := launch_faults(changed):
            print_faults(directory.study, faults)
            leave(EXIT_CONFIGURATION)
        write_json(directory.study, changed.model_dump(mode="json"))
    run_to_the_end(directory, parallel, points)


def _failed_points(directory: StudyDirectory, classes: list[str]) -> list[int]:
    """Return the numbers of points that failed, or that ended for one of some reasons."""
    reasons = {entry.run_dir: entry.failure for entry in jobs_of(directory.path.resolve())}
    chosen = []
    for number, run in enumerate(directory.points()):
        result = run.read_result()
        if result is None or result.status == "finished":
            continue
        reason = reasons.get(str(run.path.resolve())) or result.reason
        reason = reason if reason in set(FailureClass) else FailureClass.APPLICATION_ERROR
        if reason in classes or (not classes and result.status == "failed"):
            chosen.append(number)
    return chosen


def adopt(name: Run = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Take over jobs of a run that Slurm has and Watershed does not know.

    They were submitted by hand (`sbatch job.sh`), or the ledger was lost. Follow them then with
    `watershed resume`.
    """
    with _faults_in_words():
        directory = StudyDirectory(found_study(name, runs_dir).path.resolve())
        count = take_over(directory)
    typer.echo(f"{directory.path.name}: {count} job{'s' * (count != 1)} adopted")
    if count:
        typer.echo(f"Follow them with: watershed resume {directory.path.name}")


@contextmanager
def _faults_in_words() -> Iterator[None]:
    """End with a message, and no traceback, for what is not the program's fault."""
    try:
        yield
    except LookupError as error:
        give_up(str(error.args[0]), EXIT_CONFIGURATION)
    except (LedgerError, NotScriptable, SlurmError) as error:
        give_up(str(error), EXIT_FAILED)
    except OSError as error:
        give_up(f"{error.filename or 'a file'}: {error.strerror}", EXIT_FAILED)
    except ValidationError as error:
        say(str(error))
        give_up("a file of the run is not of this version", EXIT_FAILED)
