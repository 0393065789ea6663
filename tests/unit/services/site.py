"""A small real HTTP server with planted answers, in the place of a site's servers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Site(HTTPServer):
    """A server with planted answers: path -> status and JSON; it remembers what it was asked.

    Before them it answers the statuses of ``busy``, one a request. With a ``token`` it refuses
    requests to change something without it, as Prefect's server does, and gives it to who asks.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.busy: list[int] = []
        self.token = ""
        self.asked: list[tuple[str, str, Any, str]] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        """Answer as planted."""
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else None
        login = self.headers.get("Authorization") or ""
        self.server.asked.append((str(self.command), self.path, body, login))
        status, answer = self.server.answers.get(self.path, (404, {"detail": "not here"}))
        if self.server.token and self.command != "GET":
            status, answer = self._without_token() or (status, answer)
        elif self.server.token and self.path.startswith("/csrf-token?client="):
            status, answer = 200, {"token": self.server.token}
        if self.server.busy:
            status, answer = self.server.busy.pop(), {"exception_message": "Service Unavailable"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def _without_token(self) -> tuple[int, Any] | None:
        """The refusals of prefect/server/api/middleware.py; None where there is none."""
        token, client = map(self.headers.get, ("Prefect-Csrf-Token", "Prefect-Csrf-Client"))
        if token is None or client is None:
            return 403, {"detail": "Missing CSRF token."}
        if token != self.server.token:
            return 403, {"detail": "Invalid CSRF token or client identifier."}
        return None

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@contextmanager
def serving() -> Iterator[Site]:
    """Serve for the time of a block.

    Yields:
        The server.
    """
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
