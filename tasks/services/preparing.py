"""Checks what ``watershed up`` needs before anything is started, and plans it."""

import socket
from collections.abc import Mapping
from pathlib import Path

from tasks.services.database import VARIABLE, Databases, check_databases, parse_database
from tasks.services.deployments import chosen_names, deploy_command, write_deployments
from tasks.services.errors import ServicesError
from tasks.services.login import make_login
from tasks.services.plan import (
    Addresses,
    Plan,
    Service,
    client_environment,
    client_host,
    mlflow_service,
    own_addresses,
    prefect_service,
    public_host,
    worker_name,
    worker_service,
)
from tasks.services.pools import checkout, refuse_other_servers
from tasks.services.ports import choose_port
from tasks.services.profile import API_URL, with_profile
from tasks.services.web import mlflow_server, prefect_server, without_password

_NO_SERVER = ("sqlite:", "file:", "postgresql:", "postgresql+", "mysql", "mssql", "/")
"""How an MLFLOW_TRACKING_URI begins that names no server."""


def prepare_own(
    data: Path,
    host: str,
    ports: tuple[int, int],
    pool: str,
    environment: Mapping[str, str],
    *,
    has_worker: bool,
    database: str | None,
    has_login: bool = False,
) -> Plan:
    """Plan servers of our own.

    Args:
        data: The data directory, absolute.
        host: Address that they bind to.
        ports: Of the Prefect server and of the MLflow server; 0 for any.
        pool: The work pool.
        environment: Environment variables of this process.
        has_worker: Whether flows are to run here.
        database: URL of PostgreSQL; None for SQLite.
        has_login: Whether both servers are to ask for a user name and a password.

    Returns:
        The plan.

    Raises:
        ServicesError: A port is in use; the databases or the login cannot be used; this is no
            checkout.
        OSError: The data directory cannot be written to.
    """
    directory = checkout()
    chosen = choose_port(host, ports[0], "--prefect-port")
    ports = (chosen, _other_port(host, ports[1], chosen))
    databases = _databases(database, environment)
    login = make_login(data) if has_login else None
    addresses = own_addresses(client_host(host), *ports)
    public = own_addresses(public_host(host), *ports)
    client = client_environment(
        data,
        addresses,
        environment,
        is_external=False,
        databases=databases,
        mlflow_ui=public.mlflow,
        login=login,
    )
    own = (
        prefect_service(
            data, host, ports[0], databases=databases, environment=environment, login=login
        ),
        mlflow_service(
            data, host, ports[1], databases=databases, environment=environment, login=login
        ),
    )
    known = {**environment, **(login.of_clients() if login else {})}
    worker = worker_name(socket.gethostname(), directory, data) if has_worker else ""
    return Plan(
        data=data,
        addresses=public,
        pool=pool,
        worker=worker,
        prefect=prefect_server(addresses.prefect_api, known),
        mlflow=mlflow_server(addresses.mlflow, known),
        own=own,
        deploy=_deploying(data, directory, pool, client),
        serve=worker_service(data, pool, worker, client) if worker else None,
        host=host,
        database=without_password(databases.mlflow) if databases else f"sqlite:///{data}/mlflow.db",
        login=login,
    )


def _other_port(host: str, port: int, taken: int) -> int:
    """Choose MLflow's port; both servers are given theirs before either has bound to it.

    Raises:
        ServicesError: The port is in use, or taken by the other server.
    """
    if port and port == taken:
        raise ServicesError(f"port {port} is wanted for both servers; name another --mlflow-port")
    chosen = choose_port(host, port, "--mlflow-port")
    return chosen if chosen != taken else choose_port(host, port, "--mlflow-port")


def _databases(database: str | None, environment: Mapping[str, str]) -> Databases | None:
    if not database:
        return None
    is_option = environment.get(VARIABLE) != database
    databases = parse_database(database, is_option=is_option)
    check_databases(databases)
    return databases


def prepare_external(
    data: Path, pool: str, environment: Mapping[str, str], *, has_worker: bool
) -> Plan:
    """Plan a worker at servers of the user's own, after they have answered.

    Args:
        data: The data directory, absolute.
        pool: The work pool.
        environment: Environment variables of this process; where they name no Prefect server, the
            user's Prefect profile may.
        has_worker: Whether flows are to run here.

    Returns:
        The plan.

    Raises:
        ServicesError: A variable is not set, a server does not answer or refuses, or the pool is
            served by another machine, or with other data; this is no checkout.
        OSError: The data directory cannot be written to.
    """
    directory = checkout()
    known = with_profile(environment)
    api, tracking_uri = _external_addresses(known)
    prefect = prefect_server(api, known)
    prefect.ask("/work_pools/filter", {"limit": 1})  # asks for the key, which /health does not
    is_server = not tracking_uri.startswith(_NO_SERVER)
    mlflow = mlflow_server(tracking_uri, environment) if is_server else None
    if mlflow is not None and mlflow.url.startswith("http"):
        mlflow.ask("/api/2.0/mlflow/experiments/search", {"max_results": 1})
    worker = worker_name(socket.gethostname(), directory, data)
    refuse_other_servers(prefect, pool, worker)
    shown = without_password(tracking_uri)
    addresses = Addresses(prefect.url, prefect.url.removesuffix("/api"), shown)
    client = client_environment(data, addresses, environment, is_external=True)
    return Plan(
        data=data,
        addresses=addresses,
        pool=pool,
        worker=worker if has_worker else "",
        prefect=prefect,
        mlflow=mlflow,
        own=(),
        deploy=_deploying(data, directory, pool, client),
        serve=worker_service(data, pool, worker, client) if has_worker else None,
        host="",
        database=shown,
    )


def _external_addresses(environment: Mapping[str, str]) -> tuple[str, str]:
    examples = {
        API_URL: "http://prefect.example.org:4200/api",
        "MLFLOW_TRACKING_URI": "http://mlflow.example.org:5000",
    }
    missing = [name for name in examples if not environment.get(name)]
    if missing:
        told = " and ".join(f"{name} (such as {examples[name]})" for name in missing)
        profile = ", or a Prefect profile with a server" * (API_URL in missing)
        raise ServicesError(f"--external uses servers that are up already: set {told}{profile}")
    return environment[API_URL], environment["MLFLOW_TRACKING_URI"]


def _deploying(data: Path, directory: Path, pool: str, environment: Mapping[str, str]) -> Service:
    file = data / "deployments.yaml"
    write_deployments(directory, chosen_names(directory, ()), pool, file)
    return Service(
        name="registration of the deployments",
        command=deploy_command(file),
        environment=environment,
        log=data / "logs" / "deploy.log",
        takes="5 to 20 s",
        directory=directory,
    )
