"""Ports for the servers: which are free, and who holds one that is not."""

import errno
import pwd
import random
import socket

from tasks.services.errors import ServicesError
from tasks.services.processes import command_of, holder_of, owner_of

_LONGEST_COMMAND = 100
_SELDOM_TAKEN = range(20_000, 32_000)
_TRIES = 100


def choose_port(host: str, port: int, option: str) -> int:
    """Return a port that is free now.

    Args:
        host: Address that the server will bind to.
        port: The port that is wanted; 0 for any.
        option: How the user names another one.

    Returns:
        The port, from 1.

    Raises:
        ServicesError: It is in use, and by whom; or the address is none of this machine's.
    """
    try:
        return _bound(host, port) if port else any_port(host)
    except socket.gaierror as error:
        raise ServicesError(f"--host {host}: {error.strerror}; use an address of here") from error
    except OSError as error:
        raise ServicesError(_why(host, port, option, error)) from error


def any_port(host: str = "127.0.0.1") -> int:
    """Return a free port that will probably be free in a minute, when a server has started.

    One that the system chooses would be among those that it also gives to clients, and to all that
    ask as we do: of a busy machine another process has it before the server.

    Args:
        host: Address that the server will bind to.

    Raises:
        OSError: The address is none of this machine's, or no port is free.
    """
    for port in random.sample(_SELDOM_TAKEN, _TRIES):
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bound(host, 0)


def _bound(host: str, port: int) -> int:
    """Return the port that a server would have who binds to this one.

    Raises:
        OSError: It cannot.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])


def _why(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: no address of this machine; 127.0.0.1 is always one, 0.0.0.0 is all"
    if error.errno == errno.EACCES:
        return f"port {port} is only for root; use one from 1024, such as {option} 0 for any"
    return f"port {port} is in use by {describe_holder(port)}; use {option} 0 for any free port"


def describe_holder(port: int) -> str:
    """Say who listens on a port.

    Args:
        port: The port.
    """
    pid = holder_of(port)
    if pid is not None:
        command = command_of(pid)
        shown = command[:_LONGEST_COMMAND] + " ..." * (len(command) > _LONGEST_COMMAND)
        return f"process {pid} ({shown})"
    uid = owner_of(port)
    if uid is None:
        return "a process that this machine does not show"
    try:
        return f"a process of user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"a process of user {uid}"
