"""Finds what a user wants to compare or register: a study, or one point of it."""

from pathlib import Path

from flows.finding import find_study
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.damage import label_of_run
from tasks.tracking.study_directory import StudyDirectory

_MOST_SHOWN = 8


def find_runs(typed: str, runs_dir: Path) -> tuple[str, list[RunDirectory]]:
    """Find the runs of a study, or the run of one of its points.

    Args:
        typed: A run's directory or its name, a study's name for its newest run, or one of these
            with a point behind a slash, see ``find_point``; or a point's own directory.
        runs_dir: Directory of all runs.

    Returns:
        What to call it, and the run directories.

    Raises:
        LookupError: There is none; the message names those that there are.
    """
    if (Path(typed) / "job.json").is_file():
        path = Path(typed).resolve()
        return f"{path.parents[1].name}/{_number(path.name)}", [RunDirectory(Path(typed))]
    try:
        study = find_study(typed.rstrip("/"), runs_dir)
    except LookupError:
        name, slash, point = typed.rstrip("/").rpartition("/")
        if not (slash and name and point):
            raise
        study = find_study(name.removesuffix("/points"), runs_dir)
        run = find_point(study, point)
        return f"{study.path.resolve().name}/{_number(run.path.name)}", [run]
    return study.path.resolve().name, study.points()


def find_point(study: StudyDirectory, typed: str) -> RunDirectory:
    """Find a point of a study.

    Args:
        study: The study's directory.
        typed: The point's number from 0, its label, or the name of its directory.

    Returns:
        Its run directory.

    Raises:
        LookupError: There is none; the message names those that there are.
    """
    points = study.points()
    for run in points:
        name = run.path.name
        is_number = typed.isdecimal() and _number(name) == str(int(typed))
        if typed == name or is_number or typed == label_of_run(run):
            return run
    shown = ", ".join(run.path.name for run in points[:_MOST_SHOWN])
    more = f" and {len(points) - _MOST_SHOWN} more" if len(points) > _MOST_SHOWN else ""
    what = f"it has {shown}{more}" if points else "it has no runs yet"
    raise LookupError(f"no point '{typed}' in {study.path.name}; {what}")


def _number(name: str) -> str:
    """Name a point by its number, if its directory has one."""
    number = name.partition("-")[0]
    return str(int(number)) if number.isdecimal() else name
