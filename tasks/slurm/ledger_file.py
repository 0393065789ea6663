"""The file of the ledger: SQLite, made to be shared by processes and to survive their death.

On a local disk it is kept in WAL mode. WAL needs memory that all processes share, which hosts of a
network file system do not: there, a rollback journal is used, and every commit waits for the disk.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.slurm.file_systems import is_on_network, lock_fault, read_mounts

FILE_NAME = "ledger.sqlite"
"""Of the ledger in the directory of its cluster."""
_VERSION = 1
_BUSY_TIMEOUT_S = 30.0
_AGAIN_S = 0.05

_log = logging.getLogger(__name__)

# No STRICT, no RETURNING: Python 3.11 is still built against the SQLite 3.26 of older systems.
_SCHEMA = """
CREATE TABLE studies (study_dir TEXT PRIMARY KEY, launcher TEXT NOT NULL);
CREATE TABLE jobs (
    run_dir TEXT PRIMARY KEY,
    study_dir TEXT NOT NULL,
    plan TEXT NOT NULL,
    state TEXT NOT NULL,
    submission INTEGER NOT NULL DEFAULT 0,
    first_submission INTEGER NOT NULL DEFAULT 1,
    name TEXT NOT NULL DEFAULT '',
    mode TEXT NOT NULL DEFAULT 'single',
    task INTEGER,
    throttle INTEGER,
    slurm_job TEXT NOT NULL DEFAULT '',
    slurm_state TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    restarts INTEGER NOT NULL DEFAULT 0,
    nodes TEXT NOT NULL DEFAULT '',
    failure TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    exclude TEXT NOT NULL DEFAULT '',
    wish_cancel INTEGER NOT NULL DEFAULT 0,
    needs_costs INTEGER NOT NULL DEFAULT 0,
    not_before_s REAL NOT NULL DEFAULT 0,
    submitting_s REAL NOT NULL DEFAULT 0,
    changed_s REAL NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_study ON jobs (study_dir);
CREATE INDEX jobs_by_name ON jobs (name);
CREATE INDEX wishes ON jobs (wish_cancel) WHERE wish_cancel;
CREATE INDEX owed_costs ON jobs (needs_costs) WHERE needs_costs;
CREATE TABLE submissions (
    run_dir TEXT NOT NULL,
    name TEXT NOT NULL,
    submission INTEGER NOT NULL,
    slurm_job TEXT NOT NULL DEFAULT '',
    submitting_s REAL NOT NULL,
    ended_s REAL,
    failure TEXT NOT NULL DEFAULT '',
    node TEXT NOT NULL DEFAULT '',
    moved INTEGER NOT NULL DEFAULT 0,
    words TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_dir, name)
);
CREATE INDEX submissions_by_name ON submissions (name);
CREATE TABLE bucket (tokens REAL NOT NULL, updated_s REAL NOT NULL);
"""
# Tables that an older Watershed of the same version does not know, and does not need.
_ADDED = """
CREATE TABLE IF NOT EXISTS losses (
    run_dir TEXT NOT NULL,
    name TEXT NOT NULL,
    restarts INTEGER NOT NULL,
    node TEXT NOT NULL,
    moved INTEGER NOT NULL,
    words TEXT NOT NULL,
    PRIMARY KEY (run_dir, name, restarts)
);
CREATE TABLE IF NOT EXISTS trouble (
    words TEXT NOT NULL,
    since_s REAL NOT NULL,
    asked_s REAL NOT NULL
);
"""


class LedgerError(Exception):
    """The ledger cannot be used; the message says what to do."""


def state_directory(cluster: str) -> Path:
    """Return where ledger and leader's lock of a cluster lie.

    Args:
        cluster: The cluster's name.

    Returns:
        A directory below ``$WATERSHED_STATE_DIR``, else below ``~/.local/state/watershed``.
    """
    root = os.environ.get("WATERSHED_STATE_DIR") or "~/.local/state/watershed"
    return Path(root).expanduser() / cluster


def ledgers_here(name: str) -> list[Path]:
    """Return the ledgers of all clusters, by the name of the file.

    Args:
        name: Name of the file in a cluster's directory.
    """
    return sorted(state_directory("*").parent.glob(f"*/{name}"))


class LedgerFile:
    """A connection to the file; may be used from several threads, one at a time.

    Args:
        path: The file; made, with its directory, if absent.

    Attributes:
        is_on_network: Whether it may be shared with other hosts, so that each question costs.

    Raises:
        LedgerError: It cannot be opened, a newer Watershed has written it, or the file system has
            no locks that hold between hosts.
        OSError: Its directory cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        self._lock = threading.RLock()
        directory, mounts = path.parent.resolve(), read_mounts()
        if fault := lock_fault(directory, mounts):
            raise LedgerError(
                f"{fault}; set WATERSHED_STATE_DIR to a directory with locks for all hosts, or to "
                "one of this host if there is one login host only"
            )
        self.is_on_network = is_on_network(directory, mounts)
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._prepare(path)
        except sqlite3.Error as error:
            if _is_locked(error):
                raise LedgerError(
                    f"{path} is locked by another process; try again, and if that does not help, "
                    "end the process that holds it (fuser names it)"
                ) from error
            raise LedgerError(
                f"{path} cannot be used: {error}; move it away, or set WATERSHED_STATE_DIR to "
                "another directory"
            ) from error

    def _prepare(self, path: Path) -> None:
        if self.is_on_network:
            _log.warning(
                "%s may be on a network file system: no WAL, every commit waits for the disk; "
                "WATERSHED_STATE_DIR may name a local directory if there is one login host only",
                path.parent,
            )
        mode = "DELETE" if self.is_on_network else "WAL"
        self._set_journal_mode(mode)
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise LedgerError(
                    f"{path} was written by a newer Watershed (version {version}, known is "
                    f"{_VERSION}); use that one, or set WATERSHED_STATE_DIR to another directory"
                )
            if version == 0:
                for statement in _SCHEMA.split(";"):  # executescript would commit
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            for statement in _ADDED.split(";"):
                connection.execute(statement)

    def _set_journal_mode(self, mode: str) -> None:
        """Set it, also while others open the file first: SQLite does not wait for them here.

        Raises:
            sqlite3.OperationalError: It stays locked, or cannot be written.
        """
        deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute(f"PRAGMA journal_mode = {mode}")
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() > deadline_s:
                    raise
                time.sleep(_AGAIN_S)
            else:
                return

    @contextmanager
    def transaction(self, *, is_durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Write: all of it, or, if the block raises, nothing.

        Args:
            is_durable: Whether it must survive a power cut once it is committed.

        Yields:
            The connection.
        """
        with self._lock:
            level = "FULL" if is_durable or self.is_on_network else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def num_changes(self) -> int:
        """Return the number of rows that were changed through this connection."""
        return self._connection.total_changes

    def close(self) -> None:
        """Close the connection; other processes are not disturbed."""
        with self._lock:
            self._connection.close()


def _is_locked(error: sqlite3.Error) -> bool:
    codes = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes
