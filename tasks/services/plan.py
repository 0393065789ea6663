"""What is to be started: commands, environments and addresses, made by pure functions."""

import contextlib
import hashlib
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from configs.addresses import MLFLOW_UI_VARIABLE
from configs.directories import RUNS_DIR_VARIABLE, artifact_location
from tasks.services.database import VARIABLE, Databases
from tasks.services.login import Login, mlflow_login
from tasks.services.notes import notes_directory
from tasks.services.web import Server, is_loopback, mlflow_server, prefect_server, unproxied

POOL = "watershed"
"""Name of the work pool where nobody has named another."""
PREFECT, MLFLOW, WORKER = "Prefect server", "MLflow server", "worker"
MLFLOW_LOG = "logs/mlflow.log"
"""In the data directory; there once an ``up`` has been there."""
FLOW_PROCESSES = ("prefect.engine", "prefect.runner._workspace_supervisor")
"""Parts of the commands of the processes that run a flow for a worker, and that prepare for it."""

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_LOGGING_COLORS": "false",  # what is written goes to files
    "NO_COLOR": "1",
    "COLUMNS": "160",
    "PYTHONUNBUFFERED": "1",
}
_OTHERS_PREFECT = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
_SECRETS = (
    VARIABLE,
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",  # its name before Prefect 3, which still counts
    "PREFECT_SERVER_DATABASE_PASSWORD",
    "PREFECT_API_DATABASE_PASSWORD",
    "MLFLOW_BACKEND_STORE_URI",
)
"""What servers need, and flow runs and their jobs do not."""
_CSRF = ("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED")
_CORS = ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS")
"""Each has two names; what the user says by either goes before what we say."""
_PASSWORD = "PGPASSWORD"  # noqa: S105  a variable's name
"""Of whatever PostgreSQL the user means: that of our servers, or one that a flow asks."""
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  what a user may ask for
_QUERY_S = "3"
"""How often our own worker asks our own server for work; 15 s of Prefect's feel dead."""


@dataclass(frozen=True, eq=False)
class Service:
    """A server or worker to start.

    Attributes:
        name: What it is called.
        command: Starts it in the foreground.
        environment: All of its environment.
        log: Where its output goes.
        server: What to ask whether it is well; None for a worker.
        health: Path to ask for.
        takes: How long it takes to start, in words.
        first: Parts of the commands of those processes of its that are ended before it is
            stopped; empty for none.
        notes: Where it is noted which of them are to go on later; None for nowhere.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    server: Server | None = None
    health: str = ""
    takes: str = ""
    first: tuple[str, ...] = ()
    notes: Path | None = None
    directory: Path | None = None
    """Where it is started; None for anywhere."""


@dataclass(frozen=True)
class Addresses:
    """Where the two servers are.

    Attributes:
        prefect_api: For PREFECT_API_URL.
        prefect_ui: What a person opens.
        mlflow: For MLFLOW_TRACKING_URI, and what a person opens.
    """

    prefect_api: str
    prefect_ui: str
    mlflow: str


@dataclass(frozen=True)
class Plan:
    """All that ``watershed up`` starts.

    Attributes:
        data: The data directory, absolute.
        addresses: Of the servers, as people and other commands reach them.
        pool: The work pool.
        worker: Name of the worker; empty for none.
        prefect: The Prefect server, to be asked.
        mlflow: The MLflow server, to be asked; None if it is no server but a database.
        own: Servers to start; none if they are not ours.
        deploy: Registers the deployments, and ends.
        serve: The worker; None for none.
        host: Address that servers of ours bind to; empty if they are not ours.
        database: URI of MLflow's database, without a password; for messages.
        login: What servers of ours ask for; None for nothing, and for servers not ours.
    """

    data: Path
    addresses: Addresses
    pool: str
    worker: str
    prefect: Server
    mlflow: Server | None
    own: tuple[Service, ...]
    deploy: Service
    serve: Service | None
    host: str
    database: str
    login: Login | None = None


def client_host(host: str) -> str:
    """Return the address by which processes of this machine reach a server.

    Args:
        host: The address that it binds to.
    """
    # A server that binds to :: is not reached by IPv4: asyncio keeps the two apart.
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{named}]" if ":" in named else named


def public_host(host: str) -> str:
    """Return the address by which people reach a server: a name, if it binds to all addresses.

    Args:
        host: The address that it binds to.
    """
    if host not in _ANYWHERE:
        return client_host(host)
    for name in (socket.getfqdn(), socket.gethostname()):
        with contextlib.suppress(OSError):
            socket.getaddrinfo(name, None)
            return name
    return client_host(host)  # nobody knows this machine by a name, itself neither


def own_addresses(host: str, prefect_port: int, mlflow_port: int) -> Addresses:
    """Return the addresses of servers of ours.

    Args:
        host: From ``client_host`` or ``public_host``.
        prefect_port: Of the Prefect server.
        mlflow_port: Of the MLflow server.
    """
    prefect = f"http://{host}:{prefect_port}"
    return Addresses(f"{prefect}/api", prefect, f"http://{host}:{mlflow_port}")


def prefect_service(
    data: Path,
    host: str,
    port: int,
    *,
    databases: Databases | None,
    environment: Mapping[str, str],
    login: Login | None = None,
) -> Service:
    """Return the Prefect server.

    Args:
        data: The data directory, absolute; its ``prefect`` is where runs without a server have
            their database, too.
        host: Address to bind to.
        port: Port to bind to.
        databases: In PostgreSQL; None for SQLite in the data directory.
        environment: Environment variables of this process.
        login: What it asks for; None for nothing, or what the user's variables say.
    """
    api = f"http://{client_host(host)}:{port}/api"
    own = {
        "PREFECT_HOME": str(data / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": environment.get("PREFECT_UI_API_URL")  # of a proxy, say
        or f"http://{public_host(host)}:{port}/api",
    }
    own |= _against_pages(host, port, own["PREFECT_UI_API_URL"], environment)
    command = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    if databases is None:
        command.insert(0, "tasks.services.sqlite_writers")
    else:
        own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = databases.prefect
    if login is not None:
        own["PREFECT_SERVER_API_AUTH_STRING"] = login.pair
    return Service(
        name=PREFECT,
        command=(sys.executable, "-m", *command),
        environment=_without(environment, VARIABLE, *_OTHERS_PREFECT) | _QUIET | own,
        log=data / "logs" / "prefect.log",
        server=prefect_server(api, _logged_in(environment, login)),
        health="/health",
        takes="10 to 40 s",
    )


def _against_pages(
    host: str, port: int, ui_api: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """Keep pages of the web from using Prefect through the browser of who opens them.

    Such a page can send requests, but read answers only if its origin is allowed (CORS); so it
    cannot read the token without which the server changes nothing (CSRF). Either alone is not
    enough: without a token, a request whose answer the page may not read would do its work.
    """
    parts = urlsplit(ui_api)
    origins = [f"http://{name}:{port}" for name in _names(host)]
    own = {_CSRF[0]: "true", _CORS[0]: ",".join([*origins, f"{parts.scheme}://{parts.netloc}"])}
    said = {names[0] for names in (_CSRF, _CORS) if any(environment.get(name) for name in names)}
    return _without(own, *said)


def mlflow_service(
    data: Path,
    host: str,
    port: int,
    *,
    databases: Databases | None,
    environment: Mapping[str, str],
    login: Login | None = None,
) -> Service:
    """Return the MLflow server.

    With SQLite, artifacts are given as paths of the data directory, so that a run without the
    server finds them, and one that was made without it is found by the server. With PostgreSQL the
    server passes them on, and other machines need not see the directory.

    Args:
        data: The data directory, absolute.
        host: Address to bind to.
        port: Port to bind to.
        databases: In PostgreSQL; None for SQLite in the data directory.
        environment: Environment variables of this process.
        login: What it asks for; None for nothing.
    """
    artifacts = artifact_location(data / "mlartifacts")
    own = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{data}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # starts in half the time
    }
    if databases is None:
        own["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = artifacts
    else:
        own["MLFLOW_BACKEND_STORE_URI"] = databases.mlflow
    if not is_loopback(host) and not environment.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        own["MLFLOW_SERVER_ALLOWED_HOSTS"] = _allowed_hosts(host)
    command = ["-m", "mlflow", "server", "--uvicorn-opts", "--no-access-log", "--workers", "1"]
    if login is not None:
        command += ["--app-name", "basic-auth"]
        own |= mlflow_login(data, login)
    url = f"http://{client_host(host)}:{port}"
    return Service(
        name=MLFLOW,
        command=(sys.executable, *command, "--host", host, "--port", str(port)),
        environment=_without(environment, VARIABLE, "MLFLOW_TRACKING_URI") | _QUIET | own,
        log=data / MLFLOW_LOG,
        server=mlflow_server(url, _logged_in(environment, login)),
        health="/health",
        takes="5 to 20 s",
    )


def _logged_in(environment: Mapping[str, str], login: Login | None) -> dict[str, str]:
    return {**environment, **({} if login is None else login.of_clients())}


def _allowed_hosts(host: str) -> str:
    """Names by which MLflow may be called; others are taken for an attack by name (rebinding)."""
    return ",".join(f"{name},{name}:*" for name in _names(host))


def _names(host: str) -> list[str]:
    """What a server is called that binds to an address."""
    names = ["localhost", "127.0.0.1", client_host(host)]
    if not is_loopback(host):
        names += [socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys(names))


def client_environment(
    data: Path,
    addresses: Addresses,
    environment: Mapping[str, str],
    *,
    is_external: bool,
    databases: Databases | None = None,
    mlflow_ui: str = "",
    login: Login | None = None,
) -> dict[str, str]:
    """Return the environment of those who use the servers: the worker, and ``prefect deploy``.

    PGPASSWORD is left out only where it is the password of our servers' database. Elsewhere it is
    the user's own: a flow may need it, and so does an MLFLOW_TRACKING_URI in PostgreSQL.

    Args:
        data: The data directory, absolute; flow runs put their studies there.
        addresses: Of the servers. With a user's own, their variables stay as they are.
        environment: Environment variables of this process.
        is_external: Whether the servers are not ours.
        databases: Of our servers, in PostgreSQL; None for SQLite, and for servers not ours.
        mlflow_ui: Where people open our MLflow, if that is not where flow runs reach it; what the
            user's WATERSHED_MLFLOW_UI says, of a proxy, say, goes before it.
        login: What our servers ask for; None for nothing, or what the user's variables say.
    """
    own = {RUNS_DIR_VARIABLE: str(data), "PYTHONSAFEPATH": "1"}
    if is_external:
        return _without(environment, *_SECRETS) | _QUIET | own
    own |= {
        "PREFECT_HOME": str(data / "prefect"),
        "PREFECT_API_URL": addresses.prefect_api,
        "PREFECT_WORKER_QUERY_SECONDS": environment.get("PREFECT_WORKER_QUERY_SECONDS", _QUERY_S),
        "MLFLOW_TRACKING_URI": addresses.mlflow,
    }
    if shown := environment.get(MLFLOW_UI_VARIABLE) or mlflow_ui:
        own[MLFLOW_UI_VARIABLE] = shown
    password = () if databases is None else (_PASSWORD,)
    known = _logged_in(environment, login)
    kept = _without(known, *_SECRETS, *_OTHERS_PREFECT, *password)
    return kept | _QUIET | own | unproxied(environment)


def worker_service(data: Path, pool: str, name: str, environment: Mapping[str, str]) -> Service:
    """Return the worker, which runs flows as processes of this machine.

    Args:
        data: The data directory, absolute.
        pool: The work pool that it serves.
        name: What it is called there.
        environment: From ``client_environment``.
    """
    command = ("-m", "prefect", "worker", "start", "--pool", pool, "--name", name)
    return Service(
        name=WORKER,
        command=(sys.executable, *command, "--type", "process", "--install-policy", "never"),
        environment=environment,
        log=data / "logs" / "worker.log",
        takes="5 to 15 s",
        first=FLOW_PROCESSES,
        notes=notes_directory(data),
    )


def worker_name(host: str, checkout: Path, data: Path) -> str:
    """Return the name of the worker of a checkout and its data on a host, the same every time.

    Args:
        host: The host.
        checkout: Directory of the checkout, absolute.
        data: The data directory, absolute: a flow run that is retried finds its study there alone.
    """
    digest = hashlib.sha256(f"{checkout}\n{data}".encode()).hexdigest()
    return f"{host}:{checkout.name}-{digest[:6]}"


def _without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in environment.items() if name not in names}
