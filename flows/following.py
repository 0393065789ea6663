"""Finds single points of a run, and shows a point's output while it grows."""

import codecs
import time
from collections.abc import Iterator
from pathlib import Path

from flows.finding import find_study
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.damage import label_of_run, standing
from tasks.tracking.history import OVER
from tasks.tracking.study_directory import StudyDirectory

_POLL_S = 0.5
_CHUNK_BYTES = 1 << 16
_MOST_SHOWN = 10


def find_points(typed: str | None, point: str | None, runs_dir: Path) -> list[RunDirectory]:
    """Find the run directories that a user means.

    Args:
        typed: A point's directory, or what ``find_study`` takes.
        point: Number of the point in the grid, or a part of its label; None for all.
        runs_dir: Directory of all runs.

    Returns:
        The points, in the order of the grid; at least one.

    Raises:
        LookupError: There is none; the message names those that there are.
        OSError: A ``job.json`` cannot be read.
    """
    if typed is not None and (Path(typed) / "job.json").is_file():
        return [RunDirectory(Path(typed).resolve())]
    study = StudyDirectory(find_study(typed, runs_dir).path.resolve())
    labels = {run: label_of_run(run) for run in study.points()}
    if point is None:
        return list(labels)
    if point.isdigit():
        found = [run for run in labels if number_of(run) == int(point)]
    else:
        found = [run for run, label in labels.items() if point in label]
    if not found:
        known = [f"{number_of(run)} ({label})" for run, label in labels.items()]
        more = f" and {len(known) - _MOST_SHOWN} more" if len(known) > _MOST_SHOWN else ""
        raise LookupError(
            f"no point '{point}' in {study.path.name}; there are "
            + ", ".join(known[:_MOST_SHOWN])
            + more
        )
    return found


def number_of(run: RunDirectory) -> int:
    """Return a point's number in the grid, from 0.

    Args:
        run: Its run directory, which begins with it.
    """
    return int(run.path.name.partition("-")[0])


def output_of(run: RunDirectory, slurm_output: Path, *, follow: bool) -> Iterator[str]:
    """Read a point's output: what Slurm said, then what the engine says.

    Args:
        run: The run directory.
        slurm_output: Where Slurm's words on it are.
        follow: Go on while the run does.

    Yields:
        Pieces of text.

    Raises:
        OSError: A file cannot be read.
    """
    paths = (slurm_output, run.stdout)
    offsets = dict.fromkeys(paths, 0)
    decoders = {path: codecs.getincrementaldecoder("utf-8")("replace") for path in paths}
    while True:
        is_over = standing(run) in OVER
        for path in paths:
            for piece in _pieces(path, offsets[path]):
                offsets[path] += len(piece)
                yield decoders[path].decode(piece)
        if is_over or not follow:
            return
        time.sleep(_POLL_S)


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    """Read a file from an offset on; an absent one is empty."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
