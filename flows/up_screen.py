"""What ``watershed up`` looks like: the addresses, and one line that says how all are."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flows.console import duration
from tasks.services.lifecycle import Screen
from tasks.services.login import LOGIN_NAME, Login
from tasks.services.state import Services
from tasks.services.web import is_loopback

_NOT_WELL = "not well"


def print_addresses(console: Console, services: Services) -> None:
    """Print where the servers are, and what serves which pool.

    Args:
        console: Where to.
        services: The servers.
    """
    pool = f"{services.prefect_ui}/work-pools/work-pool/{services.pool}"
    served = f"{services.worker} serves it" if services.worker else "no worker here"
    rows = (
        ("Prefect", services.prefect_ui, ""),
        ("MLflow", services.mlflow, ""),
        ("Pool", pool, f"  {served}"),
    )
    for name, address, told in rows:
        line = Text.assemble((f"{name:<9}", "bold"), (address, "cyan"), told)
        console.print(line, soft_wrap=True)


def print_login(console: Console, data: Path, login: Login | None = None) -> None:
    """Say where the user name and the password of the servers are.

    Args:
        console: Where to.
        data: The data directory.
        login: What is shown as well, but on a terminal alone, not in a log file.
    """
    where = f"USER:PASSWORD of {data / LOGIN_NAME}; Prefect's page takes both as one, MLflow's each"
    print_line(console, f"Login    {where}")
    if login is not None and console.file.isatty():
        print_line(console, f"         {login.pair}", "bold")


def print_opened(
    console: Console, host: str, environment: Mapping[str, str], *, has_login: bool
) -> None:
    """Say who can use the servers, unless that is who knows a password that nobody can listen to.

    Args:
        console: Where to.
        host: The address that they bind to; empty if they are not ours.
        environment: Environment variables of this process.
        has_login: Whether both ask for a user name and a password.
    """
    if host and not (has_login and is_loopback(host)):
        print_line(console, told_opened(host, environment, has_login=has_login), "yellow")


def told_opened(host: str, environment: Mapping[str, str], *, has_login: bool) -> str:
    """Return what it means who can reach the servers.

    Args:
        host: As for ``print_opened``.
        environment: As for ``print_opened``.
        has_login: As for ``print_opened``.
    """
    if has_login:
        return (
            f"Open to others ({host}) without encryption: the password can be read on the way. Let "
            "a proxy with TLS stand before them; or leave out --host, and use: ssh -L"
        )
    which, can = "Neither server has", "start jobs as you, and read your files through MLflow"
    if environment.get("PREFECT_SERVER_API_AUTH_STRING"):  # the user's own
        which, can = "MLflow does not have", "read and write your files through it"
    if is_loopback(host):
        return (
            f"{which} a login: other users of this machine can {can}. On a shared machine: "
            "watershed up --login"
        )
    return (
        f"Open to others ({host}). {which} a login: whoever reaches them can {can}. Use --login, "
        "or a proxy with a login; or leave out --host, and use: ssh -L"
    )


@contextmanager
def make_screen(console: Console, data: str) -> Iterator[Screen]:
    """Show a start, a life and an end: one line that changes, above it what stays.

    In a log file, a line is written when its words change. What stands behind two spaces (a time,
    say) is no change.

    Args:
        console: Where to.
        data: The data directory, as it is shown.

    Yields:
        What shows it.
    """
    with _changing_line(console) as tell:
        yield Screen(
            waiting=lambda waiting, elapsed_s: tell(waiting_line(waiting, elapsed_s)),
            health=lambda ill, runs, elapsed_s: tell(health_line(ill, runs, elapsed_s)),
            stopping=lambda names, runs, elapsed_s: tell(stopping_line(names, runs, elapsed_s)),
            handing_over=lambda names, runs, elapsed_s: tell(
                handing_over_line(names, runs, elapsed_s)
            ),
            tell=lambda text: print_line(console, text),
            warn=lambda text: print_line(console, text, "red"),
            is_up=lambda services: _print_up(console, services, data),
        )


def _style(line: str) -> str:
    return "yellow" if line.startswith(_NOT_WELL) else ""


def _print_up(console: Console, services: Services, data: str) -> None:
    print_addresses(console, services)
    print_line(console, f"Data and logs are in {data}.", "dim")


@contextmanager
def _changing_line(console: Console) -> Iterator[Callable[[str], None]]:
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(Text(text, _style(text)))
        return
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        words = text.partition("  ")[0]
        if words != last:
            last = words
            print_line(console, words)

    yield tell


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line, however long, as it is; where nobody reads any more, nothing.

    ``up | tee`` loses its reader with the same Ctrl-C, and has still to stop its servers.

    Args:
        console: Where to.
        text: The line.
        style: How it looks.
    """
    with contextlib.suppress(OSError, SystemExit):  # the latter is Rich's answer to a broken pipe
        console.print(Text(text, style), soft_wrap=True)


def waiting_line(waiting: Mapping[str, str], elapsed_s: float) -> str:
    """Say what is waited for.

    Args:
        waiting: Name of a server -> how long it takes, in words.
        elapsed_s: Since the start, seconds.
    """
    told = ", ".join(f"{name} ({takes})" if takes else name for name, takes in waiting.items())
    return f"starting: {told}  {duration(elapsed_s)}"


def health_line(ill: Mapping[str, str], num_flow_runs: int | None, elapsed_s: float) -> str:
    """Say how all are.

    Args:
        ill: Name of a server that does not answer -> what is known.
        num_flow_runs: Flow runs at work; None if that is not known.
        elapsed_s: Since the start, seconds.
    """
    if ill:
        told = "; ".join(f"{name} {what}" for name, what in ill.items())
        return f"{_NOT_WELL}: {told}  {duration(elapsed_s)}"
    runs = "" if num_flow_runs is None else f"  {_counted(num_flow_runs)} at work"
    return f"all are well; Ctrl-C stops them{runs}  up {duration(elapsed_s)}"


def stopping_line(names: Sequence[str], num_flow_runs: int | None, elapsed_s: float) -> str:
    """Say what is still to stop, where flow runs are cancelled.

    Args:
        names: Of the servers.
        num_flow_runs: Flow runs at work; None if that is not known, or no matter.
        elapsed_s: Since the end was asked for, seconds.
    """
    does = "stops its jobs" if num_flow_runs == 1 else "stop their jobs"
    how = f"{does} at a checkpoint (Ctrl-C again: at once)"
    return _stopping(names, num_flow_runs, how, elapsed_s)


def handing_over_line(names: Sequence[str], num_flow_runs: int | None, elapsed_s: float) -> str:
    """Say what is still to stop, where flow runs are handed over to the next `up`.

    Args:
        names: Of the servers.
        num_flow_runs: Flow runs at work; None if that is not known, or no matter.
        elapsed_s: Since the end was asked for, seconds.
    """
    does = "hands over its jobs" if num_flow_runs == 1 else "hand over their jobs"
    how = f"{does}: those of Slurm go on, those here stop at a checkpoint (Ctrl-C: at once)"
    return _stopping(names, num_flow_runs, how, elapsed_s)


def _stopping(names: Sequence[str], num_flow_runs: int | None, how: str, elapsed_s: float) -> str:
    runs = f"; {_counted(num_flow_runs)} {how}" if num_flow_runs else ""
    return f"stopping: {', '.join(names)}{runs}  {duration(elapsed_s)}"


def _counted(number: int) -> str:
    return f"{number} flow run{'s' * (number != 1)}"
