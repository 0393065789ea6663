"""Why a server has ended, in words. The logs are those of real servers."""

from pathlib import Path

import pytest

from tasks.services.diagnosis import diagnose, end_of_log

_LOGS = {
    "mlflow db upgrade sqlite:////data/mlflow.db": (
        "mlflow.exceptions.MlflowException: Detected out-of-date database schema (found version "
        "451aebb31d03, but expected cc1f77228345). Take a backup of your database, then run "
        "'mlflow db upgrade <database_uri>' to migrate your database to the latest schema."
    ),
    "there is no way back": (
        "Detected out-of-date database schema (found version ffffffffffff, but expected "
        "cc1f77228345). Take a backup of your database, then run 'mlflow db upgrade"
    ),
    "newer version": "alembic.util.exc.CommandError: Can't locate revision identified by 'f1d2'",
    "make room in /data": "sqlite3.OperationalError: database or disk is full",
    "name another with --data": "sqlite3.OperationalError: attempt to write a readonly database",
    "raise max_connections": "FATAL:  sorry, too many clients already",
    "PGPASSWORD": 'FATAL:  password authentication failed for user "lab"',
    "restore a copy": "sqlite3.DatabaseError: file is not a database",
}


@pytest.mark.parametrize(("told", "log"), _LOGS.items())
def test_known_causes_come_with_what_to_do(told: str, log: str) -> None:
    """A person reads what to do, not a traceback."""
    cause = diagnose(f"...\n{log}\n...", data=Path("/data"), database="sqlite:////data/mlflow.db")

    assert cause is not None
    assert told in str(cause)


def test_unknown_causes_are_left_to_the_log() -> None:
    """Nothing is made up."""
    assert diagnose("KeyError: 'x'", data=Path("/data"), database="") is None


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    """Logs of months are long."""
    path = tmp_path / "log"
    path.write_text("begin\n" + "x" * 100_000 + "\nend\n")

    assert end_of_log(path).endswith("\nend\n")
    assert "begin" not in end_of_log(path)
    assert end_of_log(tmp_path / "none") == ""
