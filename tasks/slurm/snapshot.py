"""Copies of the code, so that editing the checkout changes no job that has been submitted.

A copy is named after what is in it, so the jobs of a study share one, and it is never changed.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.runtime.atomic_files import sync_directory

_PACKAGES = ("configs", "flows", "models", "tasks")
_DIGITS = 12


def take(packages_root: Path, code_dir: Path) -> Path:
    """Copy the four packages to ``<code_dir>/<hash>``, unless that very code is there.

    Hidden files, caches and links are left out. A copy that somebody has changed, or that a crash
    has left in pieces, is replaced.

    Args:
        packages_root: Where the packages are: the checkout, or site-packages.
        code_dir: Where the copies are kept; made if absent.

    Returns:
        The copy, absolute, to put on PYTHONPATH. Its files are read-only; Python may add its
        caches, which do not count.

    Raises:
        OSError: A package is absent, or the copy cannot be written.
    """
    code = _read(packages_root)
    name = _digest(code)
    code_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = code_dir.resolve() / name
    if copy.is_dir() and _is_whole(copy):
        return copy
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=code_dir))
    try:
        _write(code, draft)
        _publish(draft, copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone if all went well
    return copy


def _read(root: Path) -> dict[str, bytes]:
    """Read all files of the packages: path below the root -> content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for package in _PACKAGES
        for path in sorted(_files(root / package))
    }


def _files(directory: Path) -> Iterator[Path]:
    for entry in os.scandir(directory):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _digest(code: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for path, content in code.items():
        whole.update(f"{path}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return whole.hexdigest()[:_DIGITS]


def _is_whole(copy: Path) -> bool:
    try:
        return _digest(_read(copy)) == copy.name
    except OSError:
        return False


def _write(code: dict[str, bytes], directory: Path) -> None:
    for path, content in code.items():
        file = directory / path
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o400)


def _publish(draft: Path, copy: Path) -> None:
    """Give a copy its name.

    Raises:
        OSError: It cannot be renamed, and no other process has brought the same code meanwhile.
    """
    if copy.is_dir() and not _is_whole(copy):
        copy.rename(draft.with_name(f".replaced-{draft.name}"))  # a job may still run from it
    try:
        draft.rename(copy)
    except OSError:
        if not _is_whole(copy):
            raise
    sync_directory(copy.parent)
