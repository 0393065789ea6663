"""Transactions of SQLite that read before they write, and are overtaken in between."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from tasks.services.sqlite_writers import queue_up

_OVERTAKES_S = 1.0
"""How long the second transaction has to commit before the first goes on."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return a database with a counter at 0, whose transactions begin as Prefect's do."""
    engine = create_engine(f"sqlite:///{tmp_path / 'counter.db'}", connect_args={"timeout": 60})

    def plain(connection: object, record: object) -> None:
        del record
        connection.isolation_level = None  # type: ignore[attr-defined]
        connection.execute("PRAGMA journal_mode = WAL")  # type: ignore[attr-defined]

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN DEFERRED")

    event.listen(engine, "connect", plain)
    event.listen(engine, "begin", begin)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counter (value INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    yield engine
    engine.dispose()


def _value(connection: Connection) -> int:
    return int(connection.execute(text("SELECT value FROM counter")).scalar_one())


def _add_one(connection: Connection, value: int) -> None:
    connection.execute(text("UPDATE counter SET value = :value"), {"value": value + 1})


def _overtaken(engine: Engine) -> int:
    """Read, let another transaction read and write, then write; return the counter."""

    def other() -> None:
        with engine.begin() as connection:
            _add_one(connection, _value(connection))

    overtaking = threading.Thread(target=other)
    try:
        with engine.begin() as connection:
            value = _value(connection)
            overtaking.start()
            overtaking.join(_OVERTAKES_S)
            _add_one(connection, value)
    finally:
        overtaking.join()
    with engine.connect() as connection:
        return _value(connection)


def test_deferred_one_is_refused_however_long_it_may_wait(engine: Engine) -> None:
    """The fault that is mended: no time-out counts for a transaction whose reading is old."""
    with pytest.raises(OperationalError, match="database is locked"):
        _overtaken(engine)


def test_queued_up_both_count(engine: Engine) -> None:
    """The second waits for the first, and reads what that has written."""
    event.listen(engine, "before_cursor_execute", queue_up, retval=True)

    assert _overtaken(engine) == 2


@pytest.mark.parametrize("statement", ["BEGIN", "begin", "BEGIN DEFERRED", " begin deferred; "])
def test_each_spelling_of_a_deferred_begin_is_known(engine: Engine, statement: str) -> None:
    """SQLAlchemy's own, and Prefect's."""
    with engine.connect() as connection:
        assert queue_up(connection, None, statement, ()) == ("BEGIN IMMEDIATE", ())
        connection.rollback()


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "SELECT 'BEGIN'", "BEGINNING", "COMMIT"])
def test_other_statements_are_left_alone(engine: Engine, statement: str) -> None:
    """With their parameters."""
    with engine.connect() as connection:
        assert queue_up(connection, None, statement, {"a": 1}) == (statement, {"a": 1})
        connection.rollback()
