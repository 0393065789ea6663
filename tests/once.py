"""What takes long to make is made once, for all processes that test."""

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that the first process of a test session to ask for it has filled.

    Args:
        factory: Of the session's temporary directories.
        name: Of the directory.
        make: Fills the empty directory that it is given.
    """
    base = factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = session / name
    with (session / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            unfinished = Path(tempfile.mkdtemp(dir=session))
            make(unfinished)
            unfinished.rename(directory)
    return directory
