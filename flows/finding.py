"""Finds a run by what a user types: a directory, its name, the name of its study, or nothing."""

import re
from pathlib import Path

from tasks.steps.flow_record import read_flow_record
from tasks.tracking.study_directory import StudyDirectory

_MOST_SHOWN = 5


def find_study(typed: str | None, runs_dir: Path) -> StudyDirectory:
    """Find the directory of a study.

    Args:
        typed: A path, or the name of a directory in ``runs_dir``, or of a study, whose newest run
            is meant; None for the newest of all.
        runs_dir: Directory of all runs.

    Returns:
        The directory.

    Raises:
        LookupError: There is none; the message names those that there are.
    """
    if typed is not None:
        for path in (Path(typed), runs_dir / typed):
            if (path / "study.json").is_file():
                return StudyDirectory(path)
    known = known_runs(runs_dir)
    of_study = re.compile(re.escape(typed or "") + r"-\d{8}-\d{6}(-\d+)?")
    chosen = [run for run in known if typed is None or of_study.fullmatch(run.path.name)]
    if chosen:
        return chosen[-1]
    if not known:
        where = f"{runs_dir} holds no runs"
        raise LookupError(f"{where}; start one with: watershed run configs/studies/digits.yaml")
    newest = ", ".join(run.path.name for run in known[: -_MOST_SHOWN - 1 : -1])
    raise LookupError(f"no run '{typed}' in {runs_dir}; the newest are {newest}")


def known_runs(runs_dir: Path) -> list[StudyDirectory]:
    """List the runs, oldest first.

    Args:
        runs_dir: Directory of all runs; it need not exist.
    """
    studies = sorted(runs_dir.glob("*/study.json"), key=lambda path: path.stat().st_mtime_ns)
    return [StudyDirectory(path.parent) for path in studies if path.parent.name[0] != "."]


def is_complete(directory: StudyDirectory) -> bool:
    """Say whether nothing is left to do: all points have finished, and MLflow has everything.

    Args:
        directory: The study's directory.

    Raises:
        ValidationError: A file of the study is not what it should be.
    """
    results = [run.read_result() for run in directory.points()]
    record = read_flow_record(directory.path)
    is_reported = record is not None and bool(record.comparison) and not record.tracking_error
    return is_reported and all(
        (result and result.status == "finished") or run.predicted_only.exists()
        for run, result in zip(directory.points(), results, strict=True)
    )
