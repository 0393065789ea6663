"""Tells our own directories from those of other users, who may have planted them for us to find.

Whoever goes on in a run's directory trusts it: a checkpoint's index is a pickle, and a plan names
the program to run. So what is found by its name or its date must be of our own making.
"""

import functools
import os
import pwd
import tempfile
from pathlib import Path


def is_own(path: Path) -> bool:
    """Say whether a directory is of our own making, and so is the link that leads there.

    Only root can give one away. Where a file system gives files to another
    id than ours (NFS that maps root or all users, mounts with one owner, containers), that id
    counts as ours, too: it is asked for with a file without a name.

    Args:
        path: The directory.

    Returns:
        Whether it is; no, if it cannot be looked at.
    """
    try:
        return all(_is_ours(one) for one in {path.absolute(), path.resolve(strict=True)})
    except (OSError, RuntimeError):  # gone, or links in a circle
        return False


def _is_ours(path: Path) -> bool:
    owner = path.lstat().st_uid
    return owner == os.geteuid() or owner == _id_in(path.parent, os.geteuid())


@functools.cache
def _id_in(directory: Path, own_id: int) -> int:
    """Return whom a file belongs to that we make in a directory; us, if we may make none there."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_uid
    except OSError:
        return own_id


def owner_of(path: Path) -> str:
    """Name the owner of a directory, in words.

    Args:
        path: The directory; of a link, the link counts unless it is our own.
    """
    try:
        owner = path.lstat().st_uid
        owner = path.stat().st_uid if owner == os.geteuid() else owner
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
    except OSError:
        return "another user"


def foreign_fault(path: Path) -> str:
    """Say that a run's directory is somebody else's, and what to do.

    Args:
        path: The directory.

    Returns:
        A line; empty if the directory is our own.
    """
    if is_own(path):
        return ""
    return (
        f"{path} belongs to {owner_of(path)}: what lies there could run commands as you; look at "
        "it with watershed show, or begin a run of your own with: watershed run"
    )
