"""The command that runs failed points again: ``watershed retry``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from configs.loading import ConfigError, with_settings
from configs.study import Study
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    LauncherSettings,
    OnlyRun,
    Parallel,
    RunsDir,
    faults_in_words,
    found_study,
    give_up,
    leave,
    print_faults,
    say,
)
from flows.finding import known_runs, only_one
from flows.jobs import jobs_of
from flows.running import run_to_the_end
from tasks.runtime.atomic_files import write_json
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.slurm.states import FailureClass
from tasks.steps.launching import launch_faults
from tasks.tracking.damage import damage_of
from tasks.tracking.study_directory import StudyDirectory

_FAILURES = ", ".join(FailureClass)


def retry(
    name: OnlyRun = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="CLASS,...",
            help=f"Only what failed for these reasons: {_FAILURES}. Default: all that failed.",
        ),
    ] = None,
    settings: LauncherSettings = [],  # noqa: B006  as typer wants it
    runs_dir: RunsDir = Path("runs"),
    parallel: Parallel = None,
) -> None:
    """Run the failed points of a run again, from their last checkpoints.

    Fields of the launcher may be changed with --set, such as launcher.memory=32G. Without RUN it is
    the only run with such points; if there are several, they are listed, and the exit code is 2.
    Points of which a file cannot be read are left as they are.
    """
    classes = [one.strip() for one in only.split(",")] if only else []
    if unknown := [one for one in classes if one not in set(FailureClass)]:
        give_up(f"--only: unknown reason '{unknown[0]}'; known: {_FAILURES}", EXIT_CONFIGURATION)
    with faults_in_words():
        directory = _run_to_retry(name, runs_dir, classes)
    if directory is None:
        typer.echo("Nothing to retry: no point has failed" + f" for {only}" * bool(only))
        return
    changed = _changed(directory, settings)
    if is_alive(RunDirectory(directory.path)):
        give_up(f"{directory.path} is running; cancel it first, or wait", EXIT_FAILED)
    with faults_in_words():
        points = _failed_points(directory, classes)
        faults = [fault for run in directory.points() if (fault := damage_of(run))]
    for fault in faults:
        say(f"left as it is: {fault}")
    if not points:
        typer.echo("Nothing to retry: no point has failed" + f" for {only}" * bool(only))
        leave(EXIT_FAILED if faults else 0)
    if changed is not None:
        write_json(directory.study, changed.model_dump(mode="json"))
    run_to_the_end(directory, parallel, points)


def _run_to_retry(
    name: str | None, runs_dir: Path, classes: Sequence[str]
) -> StudyDirectory | None:
    """Find the run that was named, or the only one with points to retry; None if none has any.

    Raises:
        LookupError: Several have.
    """
    known = known_runs(runs_dir)
    if name is not None or not known:
        return found_study(name, runs_dir, must_be_own=True)
    failed = [
        run
        for run in known
        if not is_alive(RunDirectory(run.path)) and _failed_points(run, classes)
    ]
    found = only_one(failed, are="have points to retry", command="watershed retry")
    return found and found_study(str(found.path), runs_dir)


def _changed(directory: StudyDirectory, settings: Sequence[str]) -> Study | None:
    """Return the study with another launcher; None if that stays. Exit if a setting is faulty."""
    study = directory.read_study()
    try:
        changed = with_settings(study, settings, only_below="launcher")
    except ConfigError as error:
        print_faults(directory.study, error.faults)
        leave(EXIT_CONFIGURATION)
    if changed == study:
        return None
    if faults := launch_faults(changed):
        print_faults(directory.study, faults)
        leave(EXIT_CONFIGURATION)
    return changed


def _failed_points(directory: StudyDirectory, classes: Sequence[str]) -> list[int]:
    """Return the numbers of points that failed, or that ended for one of some reasons."""
    reasons = {entry.run_dir: entry.failure for entry in jobs_of(directory.path.resolve())}
    chosen = []
    for number, run in enumerate(directory.points()):
        if damage_of(run) is not None:
            continue
        result = run.read_result()
        if result is None or result.status == "finished":
            continue
        reason = reasons.get(str(run.path.resolve())) or result.reason
        reason = reason if reason in set(FailureClass) else FailureClass.APPLICATION_ERROR
        if reason in classes or (not classes and result.status == "failed"):
            chosen.append(number)
    return chosen
