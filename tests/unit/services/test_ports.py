"""Ports: which are free, and who holds the others."""

import os
import socket
import sys

import pytest

from tasks.services.errors import ServicesError
from tasks.services.ports import choose_port


def test_any_port_is_one_that_is_free() -> None:
    """Port 0 means that the machine chooses."""
    port = choose_port("127.0.0.1", 0, "--prefect-port")

    assert port >= 1024
    assert choose_port("127.0.0.1", port, "--prefect-port") == port


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
