"""Runs a Python program whose SQLite transactions queue up instead of refusing one another.

Prefect's server begins most transactions DEFERRED: they read first, and become writers later. One
that another connection has overtaken in between cannot, and SQLite refuses it at once, without the
time-out for locks (https://www.sqlite.org/isolation.html); the server answers 503. Its clients ask
again, its pages do not, and a worker whose flow run is refused six times in a row gives that up.
Begun IMMEDIATE, as Prefect begins those of its transactions that read in order to write, a
transaction waits for the writer before it. Reads outside of transactions wait for nobody.

    python -m tasks.services.sqlite_writers prefect server start
"""

import re
import runpy
import sys
from typing import Any

from sqlalchemy import Connection, Engine, event

_DEFERRED = re.compile(r"\s*BEGIN(\s+DEFERRED)?\s*;?\s*", re.IGNORECASE)


def queue_up(connection: Connection, cursor: object, statement: str, *others: Any) -> Any:  # noqa: ANN401  as SQLAlchemy calls it
    """Return what to execute instead of a statement: ``BEGIN IMMEDIATE`` for a deferred begin.

    Args:
        connection: To any database; those of others than SQLite are left as they are.
        cursor: Not used.
        statement: What is about to be executed.
        others: Its parameters first; see ``before_cursor_execute`` of SQLAlchemy.

    Returns:
        The statement and its parameters.
    """
    del cursor
    if connection.dialect.name == "sqlite" and _DEFERRED.fullmatch(statement):
        statement = "BEGIN IMMEDIATE"
    return statement, others[0]


def main() -> None:
    """Run the module that the first argument names, with the arguments after it."""
    event.listen(Engine, "before_cursor_execute", queue_up, retval=True)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
