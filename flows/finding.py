"""Finds a run by what a user types: a directory, its name, the name of its study, or nothing."""

import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flows.jobs import jobs_of
from tasks.runtime.ownership import foreign_fault, is_own, owner_of
from tasks.runtime.plain_text import plain
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.liveness import is_alive
from tasks.steps.flow_record import read_flow_record
from tasks.tracking.damage import damage_of
from tasks.tracking.study_directory import StudyDirectory

_MOST_SHOWN = 5
_DATED = re.compile(r".+-(\d{8}-\d{6})(?:-(\d+))?")
"""How ``create_study_directory`` names a run: its study, when it began, the how manieth then."""
_DATE = "%Y%m%d-%H%M%S"


def find_study(typed: str | None, runs_dir: Path) -> StudyDirectory:
    """Find the directory of a study.

    A run of another user, who may have given it any name and date, is found by its path alone.

    Args:
        typed: A path, or the name of a directory in ``runs_dir``, or of a study, whose newest run
            is meant; None for the newest of all.
        runs_dir: Directory of all runs.

    Returns:
        The directory.

    Raises:
        LookupError: There is none; the message names those that there are.
    """
    foreign: Path | None = None
    for path in () if typed is None else (Path(typed), runs_dir / typed):
        if not (path / "study.json").is_file():
            continue
        if "/" in str(typed) or is_own(path):
            return StudyDirectory(path)
        foreign = path
    known = known_runs(runs_dir)
    of_study = re.compile(re.escape(typed or "") + r"-\d{8}-\d{6}(-\d+)?")
    chosen = [run for run in known if typed is None or of_study.fullmatch(run.path.name)]
    if chosen:
        return chosen[-1]
    if foreign is not None:
        raise LookupError(_by_path_alone(foreign))
    if not known:
        where = f"{runs_dir} holds no runs"
        raise LookupError(f"{where}; start one with: watershed run configs/studies/digits.yaml")
    newest = ", ".join(run.path.name for run in known[: -_MOST_SHOWN - 1 : -1])
    raise LookupError(f"no run '{typed}' in {runs_dir}; the newest are {newest}")


def find_own_study(typed: str | None, runs_dir: Path) -> StudyDirectory:
    """Find the directory of a study to go on in, which must not be another user's.

    Args:
        typed: See ``find_study``.
        runs_dir: Directory of all runs.

    Returns:
        The directory.

    Raises:
        LookupError: There is none, or it belongs to another user.
    """
    found = find_study(typed, runs_dir)
    if fault := foreign_fault(found.path):
        raise LookupError(fault)
    return found


def _by_path_alone(path: Path) -> str:
    shown, owner = plain(str(path.absolute())), owner_of(path)
    command = f"watershed show {shlex.quote(shown)}"
    return f"{shown} belongs to {owner}; to look at it, write its path: {command}"


def known_runs(runs_dir: Path) -> list[StudyDirectory]:
    """List the user's runs, oldest first; those of other users are none.

    When a run began stands in its directory's name, which copying and touching do not change; of a
    directory with another name, the time of ``study.json`` counts.

    Args:
        runs_dir: Directory of all runs; it need not exist.
    """
    found = [path.parent for path in runs_dir.glob("*/study.json") if path.parent.name[0] != "."]
    return [StudyDirectory(path) for path in sorted(filter(is_own, found), key=_began)]


def _began(path: Path) -> tuple[str, int, str]:
    """Return what sorts runs by their beginning: local time, number within its second, name."""
    if (named := _DATED.fullmatch(path.name)) and _is_date(named[1]):
        return named[1], int(named[2] or 1), path.name
    written = datetime.fromtimestamp((path / "study.json").stat().st_mtime).astimezone()
    return f"{written:{_DATE}}", 1, path.name


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, _DATE)
    except ValueError:
        return False
    return True


def is_complete(directory: StudyDirectory) -> bool:
    """Say whether nothing is left to do: all points have finished, and MLflow has everything.

    Args:
        directory: The study's directory.

    Raises:
        DamagedFileError: The record of its flow is cut off, or of another version.
    """
    record = read_flow_record(directory.path)
    is_reported = record is not None and bool(record.comparison) and not record.tracking_error
    return is_reported and all(map(is_done, directory.points()))


def is_done(run: RunDirectory) -> bool:
    """Say whether a point has finished or needs no job; of a damaged one that is not known.

    Args:
        run: Its run directory.
    """
    if damage_of(run) is not None:
        return False
    result = run.read_result()
    return (result is not None and result.status == "finished") or run.predicted_only.exists()


def going_runs(runs_dir: Path) -> list[StudyDirectory]:
    """List the runs that can be cancelled, oldest first: a flow, or a job of Slurm, is at work.

    Args:
        runs_dir: Directory of all runs; it need not exist.

    Raises:
        LedgerError: A ledger cannot be used.
        OSError: A run's files cannot be looked at.
    """
    going = {one.study_dir for one in jobs_of(None) if not one.state.job_state.is_final}
    return [
        run
        for run in known_runs(runs_dir)
        if str(run.path.resolve()) in going or is_alive(RunDirectory(run.path))
    ]


def only_one(runs: Sequence[StudyDirectory], *, are: str, command: str) -> StudyDirectory | None:
    """Return the only one of some runs; which of several a command is for, its user must say.

    Args:
        runs: The runs, oldest first.
        are: What they have in common, behind "2 runs": ``are running``.
        command: The command without its RUN.

    Returns:
        The run; None if there is none.

    Raises:
        LookupError: There are several; the message lists the commands, that of the newest first.
    """
    if len(runs) > 1:
        lines = [f"  {command} {run.path}" for run in reversed(runs)]
        raise LookupError("\n".join([f"{len(runs)} runs {are}; which one? One of:", *lines]))
    return runs[0] if runs else None
