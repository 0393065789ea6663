"""``watershed deploy``: registers the deployments at a Prefect server that is up."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from configs.directories import runs_directory
from flows.arguments import EXIT_CONFIGURATION, EXIT_FAILED, give_up
from flows.console import make_console
from flows.environment import chosen_api, flow_environment
from tasks.services.deployments import chosen_names, deploy, deployments_of
from tasks.services.errors import RefusedError, ServicesError, UnreachableError
from tasks.services.plan import POOL, worker_name
from tasks.services.pools import (
    checkout,
    ensure_process_pool,
    pool_type,
    refuse_other_servers,
)
from tasks.services.profile import with_profile
from tasks.services.web import Server, prefect_server

_TIMEOUT_S = 300

Pool = Annotated[str, typer.Option("--pool", metavar="NAME", help="The Prefect work pool.")]


def deploy_deployments(
    pool: Pool = POOL,
    name: Annotated[
        list[str],
        typer.Option(
            "--name",
            metavar="DEPLOYMENT",
            help="One deployment only; can be given again. Default: all.",
        ),
    ] = [],  # noqa: B006  as typer wants it
    kind: Annotated[
        str,
        typer.Option(
            "--pool-type",
            metavar="TYPE",
            help="Of a pool that is not there yet: process (flow runs are processes of the "
            "worker's machine) or slurm (they are Slurm jobs).",
        ),
    ] = "process",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Directory of a `watershed up` that is up."),
    ] = None,
) -> None:
    """Register the deployments of prefect.yaml at the Prefect server.

    The server is that of `watershed up` in the same runs directory, or that of PREFECT_API_URL or
    of your Prefect profile. `up` does this by itself; use the command after an edit of
    prefect.yaml, or for a pool of another type. In
    a pool other than `watershed`, deployments are named DEPLOYMENT-POOL, and have no schedule.

    Exit codes: 0 registered, 1 the server does not answer or refuses, 2 a faulty option.
    """
    if kind not in {"process", "slurm"}:
        give_up(f"--pool-type {kind}: use process or slurm", EXIT_CONFIGURATION)
    console = make_console()
    environment = flow_environment(runs_directory(data), os.environ)
    api = chosen_api(environment)
    if api is None:
        give_up(
            "no Prefect server: start one with `watershed up`, or name yours, such as "
            "http://127.0.0.1:4200/api, in PREFECT_API_URL or in your Prefect profile (prefect "
            "config set PREFECT_API_URL=...)",
            EXIT_CONFIGURATION,
        )
    server = prefect_server(api, with_profile(environment))
    try:
        directory = checkout()
        names = chosen_names(directory, name)
    except ServicesError as error:
        give_up(str(error), EXIT_CONFIGURATION)
    try:
        ours = worker_name(socket.gethostname(), directory, runs_directory(data).resolve())
        refuse_other_servers(server, pool, ours, deploying_from=directory)
        _ensure_pool(server, pool, kind, environment)
        with console.status(f"registering at {server.url} (5 to 20 s)"):
            registered = deploy(directory, names, pool, {**environment, "NO_COLOR": "1"})
        kept = pool_type(server, pool)
    except ServicesError as error:
        give_up(explain(error), EXIT_FAILED)
    except OSError as error:
        give_up(f"{error.filename}: {error.strerror}", EXIT_FAILED)
    flows = deployments_of(directory)
    for one, written in zip(registered, [n for n in flows if n in names], strict=True):
        typer.echo(f"{one}  ({flows[written]})")
    typer.echo(f"{len(registered)} deployments at {server.url}, pool {pool} ({kept}).")
    if kept == "slurm":
        typer.echo(f"Serve it, where sbatch works, with: prefect worker start --pool {pool}")


def _ensure_pool(server: Server, pool: str, kind: str, environment: Mapping[str, str]) -> None:
    """Make the pool if it is absent; one that is there keeps its type.

    Raises:
        ServicesError: It cannot be made.
    """
    if pool_type(server, pool) is not None:
        return
    if kind == "process":
        ensure_process_pool(server, pool)
        return
    # The form of its job variables is that of the worker's class, which only Prefect can load.
    try:
        ended = subprocess.run(
            [*(sys.executable, "-m", "prefect", "work-pool", "create"), "--type", kind, pool],
            env={**environment, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServicesError(f"making the pool '{pool}' took over {_TIMEOUT_S} s") from error
    if ended.returncode:
        last = (ended.stdout + ended.stderr).strip().splitlines()[-5:]
        raise ServicesError("\n".join([f"the work pool '{pool}' cannot be made:", *last]))


def explain(error: ServicesError) -> str:
    """Say what went wrong with a server of the user's, and what to set.

    Args:
        error: What went wrong.
    """
    if isinstance(error, RefusedError):
        name = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD"
        if "Prefect" in str(error):
            name = "PREFECT_API_KEY or PREFECT_API_AUTH_STRING (environment, or Prefect profile)"
        return f"{error}: it refuses the token or password, or the lack of one; check {name}"
    if isinstance(error, UnreachableError):
        name = "MLFLOW_TRACKING_URI"
        if "Prefect" in str(error):
            name = "PREFECT_API_URL (environment, or Prefect profile)"
        return f"{error}\nIs it running there? The address is from {name}, or from `watershed up`."
    return str(error)
