"""``watershed up``: everything that a person needs beside the jobs, in one command."""

import os
from collections.abc import Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from configs.directories import RUNS_DIR_VARIABLE, refuse_unaddressable, runs_directory
from flows.arguments import EXIT_CONFIGURATION, EXIT_FAILED, give_up, leave, say
from flows.console import make_console
from flows.deploy_commands import Pool, explain
from flows.orchestration import stop_requests
from flows.up_screen import make_screen, print_addresses, print_login, print_opened
from tasks.services.errors import ServicesError
from tasks.services.lifecycle import Lifecycle
from tasks.services.plan import POOL
from tasks.services.preparing import prepare_external, prepare_own
from tasks.services.privacy import UMASK, refuse_shared
from tasks.services.serving import await_leftovers
from tasks.services.state import (
    Services,
    claimed,
    find_services,
    forget_services,
    leftovers,
    read_services,
)


def up(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help=f"Directory of all runs, and of the servers. Default: {RUNS_DIR_VARIABLE}, "
            "else runs.",
        ),
    ] = None,
    prefect_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Of the Prefect server; 0: any free.")
    ] = 4200,
    mlflow_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Of the MLflow server; 0: any free.")
    ] = 5000,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address that the servers bind to. Without --login, whoever reaches them can "
            "start jobs as you.",
        ),
    ] = "127.0.0.1",
    pool: Pool = POOL,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="WATERSHED_DATABASE",
            show_envvar=False,
            help="PostgreSQL for both servers, postgresql://USER@HOST/. A password belongs into "
            "the variable WATERSHED_DATABASE, PGPASSWORD or ~/.pgpass. Default: SQLite.",
        ),
    ] = None,
    *,
    external: Annotated[
        bool,
        typer.Option(
            "--external",
            help="Start no servers: use those of PREFECT_API_URL and MLFLOW_TRACKING_URI.",
        ),
    ] = False,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Run no flows here, only the servers.")
    ] = False,
    login: Annotated[
        bool,
        typer.Option(
            "--login",
            envvar="WATERSHED_LOGIN",
            show_envvar=False,
            help="Both servers ask for a user name and a password, which are in DIR/login.txt: for "
            "machines that others use, too.",
        ),
    ] = False,
) -> None:
    """Start the Prefect server, the MLflow server and a worker, and show their addresses.

    Flows can then be started in the browser. Ctrl-C cancels: running flows stop their jobs at a
    checkpoint, and go on from it when they are retried. SIGTERM hands over: jobs of Slurm go on,
    and the next `up` with the same data goes on with the flows. A second `up` shows the addresses
    of the first.

    Exit codes: 0 stopped by Ctrl-C or SIGTERM, or up already; 1 a server has ended; 2 an option, a
    directory, a port or a database cannot be used.
    """
    if external and login:
        give_up(
            "--external uses servers that are up already, whose login is what they ask for; "
            "leave out --login (or WATERSHED_LOGIN)",
            EXIT_CONFIGURATION,
        )
    directory = runs_directory(data).resolve()
    console = make_console()
    os.umask(UMASK)
    with stop_requests() as stops, ExitStack() as stack:
        try:
            refuse_unaddressable(directory)
            directory.mkdir(parents=True, exist_ok=True)
            refuse_shared(directory)
            is_ours = stack.enter_context(claimed(directory))
        except ServicesError as error:
            give_up(str(error), EXIT_CONFIGURATION)
        except OSError as error:
            give_up(
                f"{directory} cannot be used: {error.strerror}; name another one with --data",
                EXIT_CONFIGURATION,
            )
        if not is_ours:
            _show_the_first(directory, wants_login=login)
        try:
            _clear(directory, stops)
            if external:
                plan = prepare_external(directory, pool, os.environ, has_worker=not no_worker)
            else:
                plan = prepare_own(
                    directory,
                    host,
                    (prefect_port, mlflow_port),
                    pool,
                    os.environ,
                    has_worker=not no_worker,
                    database=database,
                    has_login=login,
                )
        except ServicesError as error:
            give_up(explain(error), EXIT_CONFIGURATION)
        except OSError as error:
            told = f"{error.filename or directory} cannot be used: {error.strerror}"
            give_up(f"{told}; name another directory with --data", EXIT_CONFIGURATION)
        if plan.login is not None:
            print_login(console, directory, plan.login)
        print_opened(console, plan.host, os.environ, has_login=plan.login is not None)
        with make_screen(console, str(directory)) as screen:
            went_well = Lifecycle(plan, stops, screen).run()
    typer.echo("All is stopped.")
    leave(0 if went_well else EXIT_FAILED)


def _clear(directory: Path, stops: Sized) -> None:
    """Forget an ``up`` that was killed, and wait until what it has left is gone.

    Raises:
        ServicesError: It was on another host.
    """
    services = read_services(directory)
    if services is None:
        return
    left = leftovers(services)
    forget_services(directory)  # first: others would take what is in it for what is up now
    for kept in left:
        say(
            f"The {kept.name} of an earlier `up` (process {kept.pid}) is stopping; that is awaited."
        )
    await_leftovers(left, stops)
    if stops:
        leave(0)


def _show_the_first(directory: Path, *, wants_login: bool) -> None:
    services: Services | None = find_services(directory)
    if services is None:
        give_up(f"another `up` begins or ends in {directory}; try again", EXIT_FAILED)
    phase = {"starting": "is starting", "stopping": "is stopping"}.get(services.phase, "is up")
    typer.echo(
        f"`watershed up` {phase} already in {directory}: process {services.pid} on "
        f"{services.host}, since {services.started.astimezone():%Y-%m-%d %H:%M:%S}."
    )
    console = make_console()
    print_addresses(console, services)
    if services.has_login:
        print_login(console, directory)
    elif wants_login:
        typer.echo("It has no login; to give it one, stop it, and start it with --login.")
    leave(0)
