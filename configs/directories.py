"""Where runs are kept, where nobody has said it."""

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
