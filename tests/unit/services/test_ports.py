"""Ports: which are free, and who holds the others."""

import errno
import os
import socket
import sys

import pytest

from tasks.services.errors import ServicesError
from tasks.services.ports import any_port, choose_port


def test_any_port_is_one_that_is_free() -> None:
    """Port 0 means that the machine chooses."""
    port = choose_port("127.0.0.1", 0, "--prefect-port")

    assert port >= 1024
    assert choose_port("127.0.0.1", port, "--prefect-port") == port


def test_any_port_is_none_that_the_system_gives_to_others() -> None:
    """A server binds to it some seconds later; another process would have got it by then."""
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert given.getsockname()[1] >= 32_000

    assert all(1024 <= any_port() < 32_000 for _ in range(100))


def test_where_the_usual_ports_are_taken_the_system_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of another kind is told at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr("tasks.services.ports._SELDOM_TAKEN", range(port, port + 1))
        monkeypatch.setattr("tasks.services.ports._TRIES", 1)

        assert any_port() != port
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
        any_port("198.51.100.1")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells only on Linux")
def test_a_port_in_use_is_told_with_its_holder() -> None:
    """A person reads which process it is, and how to name another port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        with pytest.raises(ServicesError) as raised:
            choose_port("127.0.0.1", port, "--mlflow-port")

    assert str(raised.value).startswith(f"port {port} is in use by process {os.getpid()} (")
    assert str(raised.value).endswith("; use --mlflow-port 0 for any free port")


@pytest.mark.parametrize(
    ("host", "told"), [("198.51.100.1", "no address of this machine"), ("no.such.host.", "--host")]
)
def test_an_address_of_another_machine_is_refused(host: str, told: str) -> None:
    """A server can bind to its own addresses alone."""
    with pytest.raises(ServicesError, match=told):
        choose_port(host, 0, "--prefect-port")
