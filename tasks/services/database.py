"""One PostgreSQL URL for two servers: each has a database of its own, as both call a table alike.

``postgresql://user@host/`` means the databases ``prefect`` and ``mlflow``; with a name,
``postgresql://user@host/lab``, they are ``lab_prefect`` and ``lab_mlflow``.
"""

import importlib.util
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit, urlunsplit

from tasks.services.errors import ServicesError

VARIABLE = "WATERSHED_DATABASE"
_SCHEMES = ("postgresql", "postgres")
_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Databases:
    """The databases of the two servers.

    Attributes:
        prefect: SQLAlchemy URL for Prefect (asyncpg); it may hold a password.
        mlflow: SQLAlchemy URL for MLflow (psycopg); it may hold a password.
        names: Of the two, in this order.
        plain: libpq URLs of the two, in this order; they may hold a password.
        shown: Where they are, without a password.
    """

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    names: tuple[str, str]
    plain: tuple[str, str] = field(repr=False)
    shown: str


def parse_database(url: str, *, is_option: bool) -> Databases:
    """Read a PostgreSQL URL.

    Args:
        url: The URL.
        is_option: Whether it was given on the command line, where everybody on this machine can
            read it.

    Returns:
        The databases of both servers.

    Raises:
        ServicesError: It is no such URL, or has a password and was given on the command line.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its message may have a part of the password
        raise ServicesError(
            "--database: the URL has a faulty host or port; characters such as / or @ in a "
            "password are written %2F, %40"
        ) from None
    if parts.scheme not in _SCHEMES or (not parts.hostname and "host=" not in parts.query):
        shown = urlunsplit(parts._replace(netloc=_without_password(parts), query=""))
        raise ServicesError(
            f"--database {shown}: no PostgreSQL URL; write postgresql://USER@HOST:PORT/ (databases "
            "prefect and mlflow) or postgresql://USER@HOST:PORT/NAME (NAME_prefect, NAME_mlflow)"
        )
    if is_option and (parts.password or "password=" in parts.query):
        raise ServicesError(
            "--database has a password, which every user of this machine could read; put the URL "
            f"in the variable {VARIABLE}, or the password in PGPASSWORD or in ~/.pgpass"
        )
    base = parts.path.strip("/")
    names = (f"{base}_prefect", f"{base}_mlflow") if base else ("prefect", "mlflow")
    plain = [urlunsplit(parts._replace(scheme="postgresql", path=f"/{name}")) for name in names]
    return Databases(
        prefect=plain[0].replace("postgresql://", "postgresql+asyncpg://", 1),
        mlflow=plain[1].replace("postgresql://", "postgresql+psycopg://", 1),
        names=(names[0], names[1]),
        plain=(plain[0], plain[1]),
        shown=f"PostgreSQL at {_without_password(parts)}: {names[0]}, {names[1]}",
    )


def check_databases(databases: Databases) -> None:
    """Connect to both databases.

    Args:
        databases: What to connect to.

    Raises:
        ServicesError: The driver is missing, or PostgreSQL does not answer, refuses, or has no such
            database; the message says what to do.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise ServicesError(
            "PostgreSQL needs a driver; in the checkout: "
            "pip install -c constraints.txt -e '.[postgres]'"
        )
    for name, url in zip(databases.names, databases.plain, strict=True):
        _connect(name, url)


def _connect(name: str, url: str) -> None:
    import psycopg  # noqa: PLC0415  an extra

    try:
        with psycopg.connect(url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            encoding = connection.info.parameter_status("server_encoding")
    except psycopg.Error as error:
        parts = urlsplit(url)
        lines = [line for line in str(error).splitlines() if line.strip()]
        words = lines[0].strip() if lines else "no connection"
        raise ServicesError(
            f"PostgreSQL at {_without_password(parts)}, database {name}: "
            f"{words.replace(parts.password or chr(0), '***')}{_advice(words, name, parts)}"
        ) from error
    if encoding != "UTF8":
        raise ServicesError(
            f"PostgreSQL database {name} is in {encoding}, which MLflow cannot read; make it anew "
            f"with: createdb -E UTF8 -T template0 {name}"
        )


def _advice(words: str, name: str, parts: SplitResult) -> str:
    host = f" -h {parts.hostname}" if parts.hostname else ""
    port = f" -p {parts.port}" if parts.port else ""
    owner = f" -O {parts.username}" if parts.username else ""
    if "does not exist" in words and f'"{name}"' in words:
        options = f"{host}{port}{owner} -E UTF8 -T template0"
        return f"; make it, as a user who may, with: createdb{options} {name}"
    if words.startswith("invalid"):
        return "; mend the URL (in a password, % is written %25)"
    if "password" in words or "authentication" in words:
        return f"; set PGPASSWORD, or ~/.pgpass, or {VARIABLE} with the whole URL"
    return "; is it running there, and may this machine connect?"


def _without_password(parts: SplitResult) -> str:
    user, at, host = parts.netloc.rpartition("@")
    return user.partition(":")[0] + at + host
