"""Whose a data directory is: what ``up`` keeps there starts commands, so nobody else may change it.

Prefect's database says which commands flow runs begin with, MLflow's which files it hands out.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from tasks.services.errors import ServicesError

UMASK = 0o077
"""Of ``up`` and all that it starts: what they make is for the user alone."""
_KEPT = (
    *("prefect", "prefect/prefect.db", "mlflow.db", "mlflow-login.db"),
    *("mlartifacts", "flow-runs", "logs"),
)
_BY_GROUP, _BY_OTHERS = stat.S_IWGRP, stat.S_IWOTH


def refuse_shared(data: Path) -> None:
    """Refuse a data directory that another user owns, or can write to.

    Who may only read it is no concern of ours: what is made from now on is private, see ``UMASK``.

    Args:
        data: The data directory; it must exist.

    Raises:
        ServicesError: It is another user's, or others can write to it, or to what ``up`` keeps in
            it; the message says what to do.
        OSError: It cannot be looked at.
    """
    kept = [data, *(path for name in _KEPT if (path := data / name).exists())]
    for path in kept:
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise ServicesError(
                f"{path} belongs to {_user(owner)}, who could run commands as you by what `up` "
                "keeps there; name a directory of your own with --data"
            )
    if writers := {path: who for path in kept if (who := " and ".join(_writers(path)))}:
        (first, who), *_ = writers.items()
        raise ServicesError(
            f"{first} can be written to by {who}, who could run commands as you by what `up` keeps "
            f"there; run: chmod go-w {' '.join(map(str, writers))}  (or name a directory of your "
            "own with --data)"
        )


def _writers(path: Path) -> Iterator[str]:
    """Who else can write to a path, in words."""
    found = path.stat()
    if found.st_mode & _BY_GROUP and not _is_private_group(found.st_gid):
        yield f"the group {_group(found.st_gid)}"
    if found.st_mode & _BY_OTHERS:
        yield "all users"


def _is_private_group(gid: int) -> bool:
    """Whether a group is the user's alone, as many systems make one for each user (umask 002)."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    is_own = (group.gr_gid, group.gr_name) == (user.pw_gid, user.pw_name)
    return is_own and {*group.gr_mem} <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
