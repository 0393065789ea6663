"""What is said of a Prefect server that cannot be used."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.steps.prefect_check import prefect_fault


class _Refusing(BaseHTTPRequestHandler):
    """Answers for its health, and refuses everything else."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200 if self.path.endswith("/health") else 401)
        self.end_headers()

    do_GET = do_POST = _answer  # noqa: N815  as the library wants them

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The API of a server that wants a password."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


def test_where_nothing_listens_the_address_and_the_variable_are_named() -> None:
    """One line: what was tried, why it failed, what to set."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        fault = prefect_fault()

    assert fault.startswith("No Prefect server answers at http://127.0.0.1:9/api (")
    assert "Connection refused" in fault
    assert "correct PREFECT_API_URL" in fault
    assert "\n" not in fault


def test_a_refused_token_is_told_with_the_variables_that_hold_one(refusing: str) -> None:
    """A server that answers and refuses is not called absent."""
    with temporary_settings({PREFECT_API_URL: refusing, PREFECT_CLIENT_MAX_RETRIES: 0}):
        fault = prefect_fault()

    assert fault.startswith(f"The Prefect server at {refusing} refuses the credentials (HTTP 401)")
    assert "PREFECT_API_AUTH_STRING" in fault
    assert "PREFECT_API_KEY" in fault


def test_without_an_address_there_is_nothing_to_check() -> None:
    """Prefect starts a server of its own then."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert prefect_fault() == ""


def test_the_password_of_an_address_is_not_shown(refusing: str) -> None:
    """Neither where nothing listens nor where the server refuses it."""
    faults = []
    for host in ("127.0.0.1:9/api", refusing.removeprefix("http://")):
        api = f"http://alice:s3cret@{host}"
        with temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}):
            faults.append(prefect_fault())

    assert all("http://***@127.0.0.1:" in fault for fault in faults)
    assert not any("s3cret" in fault for fault in faults)
