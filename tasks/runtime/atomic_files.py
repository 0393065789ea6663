"""Files that are there whole or not at all, also after a crash."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old or the new content.

    Args:
        path: The file; its directory must exist.
        content: The whole content.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)  # gone already if all went well
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  anything that JSON can say
    """Write a value as indented JSON, atomically.

    Args:
        path: The file; its directory must exist.
        value: What ``json.dumps`` takes.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=False) + "\n").encode())


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power cut.

    Args:
        directory: The directory.

    Raises:
        OSError: The directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
