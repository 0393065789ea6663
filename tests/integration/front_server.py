"""A server before another one on the loopback interface, as nginx often is before MLflow."""

import threading
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Rule = Callable[[str, int], int]
"""Status by which a request is refused, by its path and the bytes of its body; 0 to hand it on."""
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


def nothing_refused(path: str, num_bytes: int) -> int:
    """Hand every request on."""
    del path, num_bytes
    return 0


class FrontServer:
    """Hands requests on, but for those that a rule refuses with a page of HTML.

    Args:
        behind: Address of the server behind it.

    Attributes:
        rule: The rule; none at first.
    """

    def __init__(self, behind: str) -> None:
        self.rule: Rule = nothing_refused
        front, host = self, urlsplit(behind).netloc

        class _Handler(BaseHTTPRequestHandler):
            def _hand_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if status := front.rule(self.path, len(body)):
                    self.send_error(status)
                    return
                behind = HTTPConnection(host, timeout=60)
                headers = {key: text for key, text in self.headers.items() if key != "Host"}
                behind.request(self.command, self.path, body, headers)
                answer = behind.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for key, text in answer.getheaders():
                    if key.lower() not in _OF_THE_CONNECTION:
                        self.send_header(key, text)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                behind.close()

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{self.host}"

    def stop(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
