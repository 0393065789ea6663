"""What ``watershed up`` looks like: the addresses, and one line that says how all are."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from flows.console import duration
from tasks.services.lifecycle import Screen
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


def print_opened(console: Console, host: str) -> None:
    """Say what it means that the servers bind to more than the loopback interface.

    Args:
        console: Where to.
        host: The address that they bind to; empty if they are not ours.
    """
    if not host or is_loopback(host):
        return
    console.print(
        Text(
            f"Open to others ({host}): the servers have no login. Anybody who reaches them can "
            "read and delete what is in them, and start jobs as you. Let a firewall, or a proxy "
            "with a login, stand before them; or leave out --host, and use: ssh -L",
            "yellow",
        ),
        soft_wrap=True,
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
