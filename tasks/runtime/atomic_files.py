"""Files that are there whole or not at all, also after a crash."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacement(
    path: Path, staging: Path | None = None, *, is_durable: bool = True
) -> Iterator[Path]:
    """Write a file so that a reader, or a crash at any moment, sees the old or the new content.

    Args:
        path: The file; its directory must exist.
        staging: Directory on the same file system to write it in; default: where it is to lie.
        is_durable: Whether it is to survive a power cut from now on; if not, what is torn then must
            be noticed by who reads it.

    Yields:
        Where to write it; it takes its place when the block ends well.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    temporary = (staging or path.parent) / f".{path.name}.{os.getpid()}"
    try:
        yield temporary
        if is_durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)  # gone already if all went well
    if is_durable:
        sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, see ``replacement``.

    Args:
        path: The file; its directory must exist.
        content: The whole content.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    with replacement(path) as temporary:
        temporary.write_bytes(content)


def as_json(value: object) -> bytes:
    """Return a value as indented JSON with a line end.

    Args:
        value: What ``json.dumps`` takes.
    """
    return (json.dumps(value, indent=2, sort_keys=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically.

    Args:
        path: The file; its directory must exist.
        value: What ``json.dumps`` takes.

    Raises:
        OSError: The content could not be written; the old file is untouched.
    """
    write_atomically(path, as_json(value))


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
