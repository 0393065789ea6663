"""Points of which a file cannot be read: they are told, and hold up no others.

A file may be cut off, or of another version of Watershed. Whether such a point has run is not
known, so it is not run again until somebody has looked.
"""

from tasks.runtime.errors import DamagedFileError
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.history import RunState, read_state
from tasks.tracking.study_directory import StudyDirectory


def standing(directory: RunDirectory) -> RunState:
    """Tell how a run stands; see ``history.read_state``.

    Args:
        directory: The run, with ``job.json``.

    Returns:
        Its state; damaged if what it is to do, or whether it has, cannot be read.

    Raises:
        OSError: A file cannot be read for another reason.
    """
    try:
        return _checked_state(directory)
    except DamagedFileError:
        return "damaged"


def damage_of(directory: RunDirectory) -> DamagedFileError | None:
    """Say what cannot be read of a damaged run.

    Args:
        directory: The run, with ``job.json``.

    Returns:
        The first fault; None if the run is not damaged.

    Raises:
        OSError: A file cannot be read for another reason.
    """
    try:
        _checked_state(directory)
    except DamagedFileError as fault:
        return fault
    return None


def _checked_state(directory: RunDirectory) -> RunState:
    directory.read_job()
    directory.read_predicted_only()
    directory.read_reused()
    return read_state(directory, directory.read_result())


def sound_points(directory: StudyDirectory) -> list[RunDirectory]:
    """Return the points of a study that are not damaged, in the order of the grid.

    Args:
        directory: The study's directory.

    Raises:
        OSError: A file cannot be read.
    """
    return [run for run in directory.points() if standing(run) != "damaged"]


def label_of_run(directory: RunDirectory) -> str:
    """Name a point by what varies; by its directory, if its ``job.json`` cannot be read.

    Args:
        directory: Its run directory.

    Raises:
        OSError: ``job.json`` cannot be read for another reason.
    """
    try:
        return directory.read_job().point
    except DamagedFileError:
        return directory.path.name
