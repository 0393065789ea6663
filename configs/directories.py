"""Where runs are kept, where nobody has said it; and what MLflow makes of its name."""

import errno
import os
from pathlib import Path

RUNS_DIR_VARIABLE = "WATERSHED_RUNS_DIR"
_DEFAULT = "runs"


def runs_directory(named: Path | None = None) -> Path:
    """Return the directory of all runs.

    Args:
        named: What the user has named; None for nothing.

    Returns:
        What was named, else the environment variable ``WATERSHED_RUNS_DIR``, else ``runs`` in the
        working directory. It need not exist. ``~`` is the home directory.
    """
    path = named or Path(os.environ.get(RUNS_DIR_VARIABLE) or _DEFAULT)
    return path.expanduser()


def refuse_unaddressable(directory: Path) -> None:
    """Refuse a directory of runs whose database MLflow would make elsewhere.

    Args:
        directory: It need not exist.

    Raises:
        OSError: There is a question mark in its path, which would begin the options in the
            address of the database.
    """
    if "?" in str(directory.resolve()):
        message = "MLflow would put its data elsewhere, as its path has a question mark"
        raise OSError(errno.EINVAL, message, str(directory))


def artifact_location(directory: Path) -> str:
    """Return a directory of artifacts as MLflow reads it.

    Args:
        directory: An absolute path.

    Returns:
        The path; a URI where MLflow would take a part of the path for something else.
    """
    path = str(directory)
    return directory.as_uri() if set(path) & set("%#?") else path
