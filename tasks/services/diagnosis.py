"""Says in words why a server has ended, from the end of its log."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

_END_BYTES = 64 * 1024


@dataclass(frozen=True)
class Diagnosis:
    """Why a server does not run.

    Attributes:
        summary: What was found.
        resolution: What to do.
    """

    summary: str
    resolution: str

    def __str__(self) -> str:
        return f"{self.summary}; {self.resolution}"


_NEWER = Diagnosis(
    "the database was last used by a newer version of the server",
    "install that version again, or restore the copy from before; there is no way back",
)
_OUT_OF_DATE = re.compile(r"out-of-date database schema \(found version (\w+), but")
_BACK_UP = "copy the database first (docs/operate.md, Backup)"
_KNOWN = (
    (
        _OUT_OF_DATE.pattern,
        "MLflow's database has the schema of an older version",
        f"{_BACK_UP}, then run: mlflow db upgrade {{database}}",
    ),
    (r"Can't locate revision identified by", _NEWER.summary, _NEWER.resolution),
    (
        r"database or disk is full|No space left on device|could not extend file",
        "the disk is full",
        "make room in {data}",
    ),
    (
        r"readonly database|Read-only file system",
        "the data directory cannot be written to",
        "check the owner and the file system of {data}, or name another with --data",
    ),
    (
        r"unable to open database file",
        "the database cannot be opened",
        "check the owner and the file system of {data}, or name another with --data",
    ),
    (
        r"database is locked",
        "the database is locked by another process",
        "SQLite on a network file system is slow at this; use --database, or a local --data",
    ),
    (
        r"file is not a database|database disk image is malformed",
        "the database file is damaged",
        "restore a copy of it in {data}",
    ),
    (
        r"[Aa]ddress already in use|Port \d+ is already in use",
        "somebody has taken the port meanwhile",
        "try again, or name other ports",
    ),
    (
        r"too many clients already|remaining connection slots",
        "PostgreSQL has no connection left",
        "raise max_connections; Prefect takes 15, MLflow 15",
    ),
    (
        r"permission denied for (schema|database) (\w+)",
        "the database's user may not make tables",
        "make the user the owner: ALTER DATABASE ... OWNER TO ...",
    ),
    (
        r"password authentication failed|no password supplied",
        "PostgreSQL refuses the password",
        "set PGPASSWORD, ~/.pgpass, or WATERSHED_DATABASE with the whole URL",
    ),
    (r"MemoryError|Cannot allocate memory", "there is no memory left", "use a larger machine"),
)


def diagnose(log: str, *, data: Path, database: str) -> Diagnosis | None:
    """Find the cause of a server's end.

    Args:
        log: The end of its log.
        data: The data directory.
        database: URI of MLflow's database, without a password.

    Returns:
        The first cause known; None if none is.
    """
    found = _OUT_OF_DATE.search(log)
    if found and not _is_known_to_mlflow(found[1]):  # which says "out-of-date" of any other schema
        return _NEWER
    for pattern, summary, resolution in _KNOWN:
        if re.search(pattern, log):
            told = resolution.format(database=database, data=data)
            return Diagnosis(summary, told)
    return None


def _is_known_to_mlflow(revision: str) -> bool:
    """Whether the MLflow that is installed has come past a schema. It is not imported."""
    spec = importlib.util.find_spec("mlflow")
    places = spec.submodule_search_locations if spec else None
    versions = [Path(place, "store/db_migrations/versions") for place in places or ()]
    return any(list(path.glob(f"{revision}_*.py")) for path in versions)


def end_of_log(path: Path, since: int = 0) -> str:
    """Return the end of a log; empty if there is none.

    Args:
        path: The log.
        since: What is before this byte is left out.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(since, file.tell() - _END_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
