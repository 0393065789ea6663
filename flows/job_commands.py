"""The commands for jobs: ``watershed plan | jobs | logs | why | cancel | retry | adopt``."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from configs.launchers import SlurmLauncherConfig
from flows.arguments import (
    EXIT_CONFIGURATION,
    EXIT_FAILED,
    File,
    OnlyRun,
    Run,
    RunsDir,
    Settings,
    checked_study,
    faults_in_words,
    found_study,
    give_up,
    leave,
)
from flows.batch_preview import planned_batches, print_plan
from flows.console import make_console
from flows.exit_codes import EXIT_CTRL_C
from flows.finding import going_runs, is_done, only_one
from flows.following import find_points, number_of, output_of
from flows.jobs import jobs_of, print_jobs, print_why, take_over
from flows.retry_command import retry
from flows.stopping import stop
from tasks.runtime.plain_text import plain
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.explaining import slurm_output_of
from tasks.tracking.damage import damage_of, label_of_run
from tasks.tracking.study_directory import StudyDirectory

PointOption = Annotated[
    str | None,
    typer.Argument(
        metavar="[POINT]", help="Number of a grid point, from 0, or a part of its label."
    ),
]


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
    with faults_in_words():
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
    with faults_in_words():
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
    with faults_in_words():
        found = find_points(name, point, runs_dir)
        if len(found) > 1:
            give_up(_which_one(found), EXIT_CONFIGURATION)
        try:
            for text in output_of(found[0], slurm_output_of(found[0]), follow=follow):
                typer.echo(_for_terminal(text) if sys.stdout.isatty() else text, nl=False)
        except KeyboardInterrupt:
            leave(EXIT_CTRL_C)


def _for_terminal(text: str) -> str:
    """Leave out what a terminal would obey; a carriage return begins a line, and hides none."""
    return plain(text.replace("\r\n", "\n").replace("\r", "\n"))


def why(name: Run = None, point: PointOption = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Explain how runs failed, in words: every submission, and the last lines of output.

    Of a study, those points that did not finish; one cause of several is told once. Exit code 1 if
    a file of one cannot be read.
    """
    with faults_in_words():
        found = find_points(name, point, runs_dir)
        told = [run for run in found if len(found) == 1 or not is_done(run)]
        if not told:
            typer.echo("All points have finished.")
        faults = {run: fault for run in told if (fault := damage_of(run))}
        print_why(make_console(), [run for run in told if run not in faults])
    if faults:
        give_up("\n".join(map(str, faults.values())), EXIT_FAILED)


def cancel(
    name: OnlyRun = None, point: PointOption = None, runs_dir: RunsDir = Path("runs")
) -> None:
    """Cancel a run, or one of its points; `watershed resume` can continue it.

    Only jobs of that run are touched. Without RUN the only one that is running is cancelled; if
    there are several, they are listed, and the exit code is 2.
    """
    with faults_in_words():
        directory = _run_to_cancel(name, runs_dir)
        is_local = not isinstance(directory.read_study().launcher, SlurmLauncherConfig)
        if point is not None and is_local:
            give_up("of a study on this machine only the whole run can be cancelled", EXIT_FAILED)
        runs = None if point is None else find_points(str(directory.path), point, runs_dir)
        if runs is not None and len(runs) > 1:
            give_up(_which_one(runs), EXIT_CONFIGURATION)
        done = stop(directory, runs)
    if done.num_left:
        again = f"run again: watershed cancel {directory.path.name}"
        give_up(f"{done.num_left} jobs have not stopped yet; {again}", EXIT_FAILED)
    if done.goes_on:
        give_up(f"{directory.path.name}: {done.goes_on}", EXIT_FAILED)
    if done.is_nothing:
        give_up(f"{directory.path.name}: nothing was running", EXIT_FAILED)
    count = f", {done.num_jobs} jobs of Slurm" if done.num_jobs else ""
    count += f", {done.num_orphans} jobs that a flow had left" if done.num_orphans else ""
    typer.echo(f"{directory.path.name}: cancelled{count}")


def _run_to_cancel(name: str | None, runs_dir: Path) -> StudyDirectory:
    """Find the run that was named, or the only one that is running; else exit.

    Raises:
        LookupError: Several are.
    """
    if name is None:
        going = only_one(going_runs(runs_dir), are="are running", command="watershed cancel")
        if going is None:
            give_up(f"nothing is running in {runs_dir}", EXIT_FAILED)
        name = str(going.path)
    return StudyDirectory(found_study(name, runs_dir, must_be_own=True).path.resolve())


def _which_one(runs: Sequence[RunDirectory]) -> str:
    points = [f"  {number_of(run)}  {label_of_run(run)}" for run in runs]
    return "\n".join(["Which one? Name its number:", *points])


def adopt(name: Run = None, runs_dir: RunsDir = Path("runs")) -> None:
    """Take over jobs of a run that Slurm has and Watershed does not know.

    They were submitted by hand (`sbatch job.sh`), or the ledger was lost. Follow them then with
    `watershed resume`.
    """
    with faults_in_words():
        directory = StudyDirectory(found_study(name, runs_dir, must_be_own=True).path.resolve())
        count = take_over(directory)
    typer.echo(f"{directory.path.name}: {count} job{'s' * (count != 1)} adopted")
    if count:
        typer.echo(f"Follow them with: watershed resume {directory.path.name}")
