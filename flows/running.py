"""Runs a study from the command line: in the foreground to its end, or in the background."""

import os
from collections.abc import Sequence
from typing import NoReturn

import typer

from flows.arguments import EXIT_FAILED, give_up, leave, say
from flows.console import make_console, show_lines, show_live
from flows.environment import told_servers
from flows.exit_codes import EXIT_CTRL_C
from flows.orchestration import last_words, snapshots, start_flow, started_flow, stop_requests
from flows.pointers import program
from flows.summary import print_summary
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.tracking.history import GOOD
from tasks.tracking.study_directory import StudyDirectory


def run_to_the_end(
    directory: StudyDirectory, parallel: int | None, points: Sequence[int] | None = None
) -> NoReturn:
    """Run what has not finished, show it, sum it up, and exit.

    Args:
        directory: The study.
        parallel: Most local jobs at a time; None for the default.
        points: Numbers of the points to run; None for all that have not finished.

    Raises:
        Exit: Always.
    """
    _refuse_second_flow(directory)
    _say_servers(directory)
    console = make_console()
    with stop_requests() as stops, started_flow(directory, parallel, points) as process:
        seen = snapshots(directory, process, stops)
        if console.is_terminal:
            show_live(console, directory.path.name, seen)
        else:
            show_lines(console, seen)
    rows = print_summary(console, directory)
    states = {row.state for row in rows}
    if states <= GOOD:
        leave(0)
    if not stops and not states & {"failed", "damaged"}:
        say(f"The flow itself has stopped: {last_words(directory, process.returncode)}")
    if states - GOOD - {"damaged"}:
        say_how_to_resume(directory)
    leave(EXIT_CTRL_C if stops else EXIT_FAILED)


def run_in_background(directory: StudyDirectory, parallel: int | None) -> None:
    """Start a study's flow and leave it; closing the terminal does not stop it.

    Args:
        directory: The study.
        parallel: Most local jobs at a time; None for the default.
    """
    _refuse_second_flow(directory)
    _say_servers(directory)
    start_flow(directory, parallel)
    name, watershed = directory.argument, program("watershed")
    typer.echo(f"{directory.path} runs in the background.")
    typer.echo(f"See how it stands with: {watershed} show {name}")
    typer.echo(f"Stop it with: {watershed} cancel {name}")


def _say_servers(directory: StudyDirectory) -> None:
    if told := told_servers(directory.path.parent, os.environ):
        typer.echo(told)


def _refuse_second_flow(directory: StudyDirectory) -> None:
    if is_alive(RunDirectory(directory.path)):
        give_up(
            f"{directory.path} is running already; see how it stands with: "
            f"{program('watershed')} show {directory.argument}",
            EXIT_FAILED,
        )


def say_how_to_resume(directory: StudyDirectory) -> None:
    """Print the command that continues a study.

    Args:
        directory: The study.
    """
    typer.echo(f"Continue with: {program('watershed')} resume {directory.argument}")
