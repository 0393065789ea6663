"""Makes the directory of a study: everything that its jobs need, before the first one starts."""

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from configs.directories import refuse_unaddressable
from configs.study import Point, Study
from tasks.runtime.atomic_files import sync_directory, write_json
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.study_directory import StudyDirectory


def create_study_directory(study: Study, runs_dir: Path, now: datetime) -> StudyDirectory:
    """Write ``runs/<study>-<date>-<time>[-n]/`` with ``study.json`` and every point's ``job.json``.

    The directory is there whole or not at all, and closed to other users.

    Args:
        study: The study.
        runs_dir: Directory of all studies' runs; made if absent.
        now: The time to name it after.

    Returns:
        The directory.

    Raises:
        OSError: It cannot be written, or MLflow could not keep its data in ``runs_dir``.
    """
    refuse_unaddressable(runs_dir)
    runs_dir.mkdir(parents=True, exist_ok=True)
    draft = StudyDirectory(Path(tempfile.mkdtemp(prefix=".new-", dir=runs_dir)))
    try:
        _fill(draft, study)
        final = StudyDirectory(_move(draft.path, runs_dir / f"{study.name}-{now:%Y%m%d-%H%M%S}"))
    except OSError:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise
    sync_directory(runs_dir)
    return final


def restore_points(directory: StudyDirectory) -> list[RunDirectory]:
    """Write the ``job.json`` of points anew where it is gone, alone or with its directory.

    It says no more than ``study.json`` does. A result that is still beside it counts again; a point
    whose directory was gone runs from the start.

    Args:
        directory: The study's directory, in which nobody else is at work.

    Returns:
        The run directories of these points.

    Raises:
        OSError: One cannot be written.
        DamagedFileError: ``study.json`` is cut off, or of another version.
    """
    missing = directory.missing_points()
    return [_make_run(directory, directory.read_study(), point) for point in missing]


def _fill(directory: StudyDirectory, study: Study) -> None:
    write_json(directory.study, study.model_dump(mode="json"))
    for point in study.points():
        _make_run(directory, study, point)


def _make_run(directory: StudyDirectory, study: Study, point: Point) -> RunDirectory:
    run = directory.point(point.index, point.label)
    run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(run.job, job_file(study, point).model_dump(mode="json"))
    return run


def job_file(study: Study, point: Point) -> JobFile:
    """Return what the job of a grid point is to do.

    Args:
        study: The study.
        point: One of its points.
    """
    return JobFile(
        study=study.name,
        point=point.label,
        coordinates=dict(point.coordinates),
        config_hash=point.config_hash,
        experiment=point.experiment,
    )


def _move(draft: Path, wanted: Path) -> Path:
    """Rename to the wanted name, or to the first free one like it.

    Raises:
        OSError: It cannot be renamed at all.
    """
    number = 1
    while True:
        final = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            return draft.rename(final)
        except OSError:
            if not final.exists():
                raise
            number += 1
