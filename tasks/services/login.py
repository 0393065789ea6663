"""A user name and a password for the servers of ``up``, made once for a data directory.

Prefect is given both in its environment. MLflow has users in a database of its own, ``basic-auth``
(mlflow/server/auth); its administrator is this one user, and others see nothing.
"""

import hashlib
import importlib.util
import os
import secrets
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tasks.runtime.atomic_files import write_atomically
from tasks.services.errors import ServicesError

LOGIN_NAME = "login.txt"
"""In the data directory, of mode 600: USER:PASSWORD, as Prefect's page asks for it."""
_DATABASE, _CONFIGURATION = "mlflow-login.db", "mlflow-login.ini"
_USER = "watershed"
_NUM_BYTES = 24
_PRIVATE = 0o600
_KNOWN_S = 60
"""How long MLflow takes a password for right that was; each check takes it a tenth of a second."""


@dataclass(frozen=True)
class Login:
    """A user of both servers.

    Attributes:
        user: Name.
        password: Password; shown by nothing of ours but ``up`` on a terminal.
    """

    user: str
    password: str = field(repr=False)

    @property
    def pair(self) -> str:
        """Both, as Prefect wants them."""
        return f"{self.user}:{self.password}"

    def of_prefect(self) -> dict[str, str]:
        """Return the variable by which clients log in at Prefect."""
        return {"PREFECT_API_AUTH_STRING": self.pair}

    def of_mlflow(self) -> dict[str, str]:
        """Return the variables by which clients log in at MLflow."""
        return {
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def of_clients(self) -> dict[str, str]:
        """Return the variables by which clients log in at either."""
        return self.of_prefect() | self.of_mlflow()


def find_login(data: Path) -> Login | None:
    """Return the login of a data directory; None if there is none that this user can read.

    Args:
        data: The data directory.
    """
    try:
        return _read(data / LOGIN_NAME)
    except (OSError, ServicesError):
        return None


def make_login(data: Path) -> Login:
    """Return the login of a data directory, made if it is absent, and tell it to MLflow.

    Args:
        data: The data directory, claimed; whoever removes the file gets another password.

    Returns:
        The login.

    Raises:
        ServicesError: A package is missing; the file is not one of ours, or others can read it.
        OSError: The data directory cannot be written to.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise ServicesError(
            "--login: MLflow's login needs a package; in the checkout: "
            "pip install -c constraints.txt -e '.[login]'"
        )
    path = data / LOGIN_NAME
    login = Login(_USER, secrets.token_urlsafe(_NUM_BYTES))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _PRIVATE)
    except FileExistsError:
        login = _read(path)
    else:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{login.pair}\n")
    _renew_in_mlflow(data / _DATABASE, login)
    write_atomically(data / _CONFIGURATION, _configuration(data).encode())
    return login


def mlflow_login(data: Path, login: Login) -> dict[str, str]:
    """Return the environment by which MLflow's server knows its user.

    Args:
        data: The data directory, in which ``make_login`` was called.
        login: From there.
    """
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(data / _CONFIGURATION),
        "MLFLOW_AUTH_ADMIN_USERNAME": login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": hashlib.sha256(login.pair.encode()).hexdigest(),
    }


def _read(path: Path) -> Login:
    """Read a login.

    Raises:
        ServicesError: It is not one of ours, or others can read it.
        OSError: It cannot be read.
    """
    anew = f"remove it, and `up --login` makes another: rm {path}"
    if path.is_symlink():
        raise ServicesError(f"{path} is a link, no file of ours; {anew}")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        if stat.S_IMODE(found.st_mode) & ~_PRIVATE or found.st_uid != os.geteuid():
            raise ServicesError(f"others may have read {path}; {anew}")
        user, colon, password = file.read().strip().partition(":")
    if not (user and colon and password):
        raise ServicesError(f"{path} has no USER:PASSWORD; {anew}")
    return Login(user, password)


def _configuration(data: Path) -> str:
    """MLflow's settings of logins; without a password, which its environment has."""
    database = str(data / _DATABASE).replace("%", "%%")  # it is read with interpolation
    return (
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{database}\n"
        f"auth_cache_ttl_seconds = {_KNOWN_S}\n"
    )


def _renew_in_mlflow(database: Path, login: Login) -> None:
    """Set the password that MLflow has kept, where it is another one.

    MLflow reads the password of its environment when it makes the user, and never again.

    Raises:
        ServicesError: Its database cannot be used.
    """
    if not database.exists():
        return
    from werkzeug.security import check_password_hash, generate_password_hash  # noqa: PLC0415

    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            query = "SELECT password_hash FROM users WHERE username = ?"
            found = connection.execute(query, [login.user]).fetchone()
            if found is not None and not check_password_hash(found[0], login.password):
                change = "UPDATE users SET password_hash = ? WHERE username = ?"
                connection.execute(change, [generate_password_hash(login.password), login.user])
    except sqlite3.Error as error:
        raise ServicesError(
            f"{database}, MLflow's users, cannot be used: {error}; remove it, and `up --login` "
            f"makes another: rm {database}"
        ) from error
