"""The user name and the password of the servers of `up`."""

import configparser
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from werkzeug.security import check_password_hash, generate_password_hash

from tasks.services.errors import ServicesError
from tasks.services.login import LOGIN_NAME, Login, find_login, make_login
from tasks.services.plan import (
    client_environment,
    mlflow_service,
    own_addresses,
    prefect_service,
    worker_service,
)
from tasks.services.web import mlflow_server, prefect_server

_LOGIN = Login("watershed", "secret")
_DATA = Path("/data")


def test_a_login_is_made_once_for_the_user_alone(tmp_path: Path) -> None:
    """The next `up` has the same; another data directory has another."""
    (tmp_path / "other").mkdir()
    made = make_login(tmp_path)

    assert make_login(tmp_path) == find_login(tmp_path) == made
    assert make_login(tmp_path / "other").password != made.password
    assert len(made.password) >= 24
    assert (tmp_path / LOGIN_NAME).stat().st_mode & 0o777 == 0o600
    assert made.password not in repr(made)


def test_no_login_is_none(tmp_path: Path) -> None:
    """A flow asks in every runs directory."""
    assert find_login(tmp_path) is None


def test_a_login_that_others_can_read_or_put_there_is_refused(tmp_path: Path) -> None:
    """It may be known, or be another's; the advice makes a new one."""
    made = make_login(tmp_path)
    (tmp_path / LOGIN_NAME).chmod(0o640)

    with pytest.raises(ServicesError, match=r"others may have read .*login\.txt; remove it, and"):
        make_login(tmp_path)
    (tmp_path / LOGIN_NAME).rename(tmp_path / "theirs")
    (tmp_path / LOGIN_NAME).symlink_to("theirs")
    with pytest.raises(ServicesError, match=r"is a link, no file of ours; remove it"):
        make_login(tmp_path)
    assert find_login(tmp_path) is None
    (tmp_path / LOGIN_NAME).unlink()

    assert make_login(tmp_path) != made


@pytest.mark.parametrize("written", ["", "watershed", "watershed:", ":secret"])
def test_a_file_without_a_login_is_told(tmp_path: Path, written: str) -> None:
    """A disk was full, or somebody has edited it."""
    (tmp_path / LOGIN_NAME).touch(0o600)
    (tmp_path / LOGIN_NAME).write_text(written)

    with pytest.raises(ServicesError, match=r"has no USER:PASSWORD; remove it"):
        make_login(tmp_path)


def test_another_password_is_told_to_mlflow(tmp_path: Path) -> None:
    """It reads that of its environment once, and keeps a hash of it."""
    before = make_login(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow-login.db")) as users, users:
        users.execute("CREATE TABLE users (username TEXT, password_hash TEXT)")
        kept = generate_password_hash(before.password)
        users.executemany("INSERT INTO users VALUES (?, ?)", [("watershed", kept), ("anna", kept)])
    (tmp_path / LOGIN_NAME).unlink()

    after = make_login(tmp_path)

    with closing(sqlite3.connect(tmp_path / "mlflow-login.db")) as users:
        hashes = dict(users.execute("SELECT username, password_hash FROM users"))
    assert check_password_hash(hashes["watershed"], after.password)
    assert hashes["anna"] == kept
    (tmp_path / "mlflow-login.db").write_text("no database" * 100)
    with pytest.raises(ServicesError, match=r"mlflow-login\.db, MLflow's users, cannot be used"):
        make_login(tmp_path)


def test_mlflow_shows_nothing_to_users_whom_nobody_has_allowed_it(tmp_path: Path) -> None:
    """Its own default is that all can read all; the path may have a % in it."""
    data = tmp_path / "100%"
    data.mkdir()
    login = make_login(data)
    written = (data / "mlflow-login.ini").read_text()
    settings = configparser.ConfigParser()
    settings.read(data / "mlflow-login.ini")

    assert settings["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert settings["mlflow"]["database_uri"] == f"sqlite:///{data}/mlflow-login.db"
    assert login.password not in written


def test_the_login_is_in_environments_and_on_no_command_line() -> None:
    """Both servers ask for it, the worker and `up` itself have it; other settings go under."""
    shell = {"PREFECT_SERVER_API_AUTH_STRING": "a:b", "MLFLOW_TRACKING_USERNAME": "c"}
    prefect = prefect_service(
        _DATA, "127.0.0.1", 1, databases=None, environment=shell, login=_LOGIN
    )
    mlflow = mlflow_service(_DATA, "127.0.0.1", 2, databases=None, environment=shell, login=_LOGIN)
    addresses = own_addresses("127.0.0.1", 1, 2)
    client = client_environment(_DATA, addresses, shell, is_external=False, login=_LOGIN)
    worker = worker_service(_DATA, "watershed", "me", client)

    commands = [*prefect.command, *mlflow.command, *worker.command]
    assert "secret" not in " ".join(commands)
    assert prefect.environment["PREFECT_SERVER_API_AUTH_STRING"] == "watershed:secret"
    assert mlflow.environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == _LOGIN.password
    assert "--app-name basic-auth" in " ".join(mlflow.command)
    assert "secret" not in mlflow.environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    assert client["PREFECT_API_AUTH_STRING"] == "watershed:secret"
    assert client["MLFLOW_TRACKING_USERNAME"] == "watershed"
    assert client["MLFLOW_TRACKING_PASSWORD"] == _LOGIN.password
    known = _LOGIN.of_clients()
    assert prefect.server == prefect_server("http://127.0.0.1:1/api", known)
    assert mlflow.server == mlflow_server("http://127.0.0.1:2", known)
    assert "secret" not in f"{prefect.server} {mlflow.server} {_LOGIN}"
