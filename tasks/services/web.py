"""Asks servers over HTTP: JSON in, JSON out, and in words what goes wrong."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tasks.services.errors import (
    BusyError,
    RefusedError,
    TokenMissingError,
    UnreachableError,
)

_TIMEOUT_S = 10.0
_REFUSALS = (401, 403)
_BUSY = (408, 429, 502, 503)
"""After these Prefect's own client asks again, too (prefect/client/base.py). A Prefect server with
SQLite answers 503 at once where another of its connections has written meanwhile."""
_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_LONGEST_WORDS = 300
_CSRF = "CSRF"
"""Named by the words with which Prefect refuses a request (403) whose token is missing or has
expired (prefect/server/api/middleware.py)."""
_LOCAL_HOSTS = "127.0.0.1,localhost"


@dataclass(frozen=True)
class Server:
    """A server to ask.

    Attributes:
        name: What it is called in messages, such as ``the Prefect server``.
        url: Its address, without a slash at the end, and without a password.
        headers: What is sent with every request; never shown.
        pauses_s: How long to wait before each further try where it is busy; default 6.3 s in all.
    """

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    pauses_s: tuple[float, ...] = _PAUSES_S
    _token: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Headers against forged requests; none until the server asks for them."""

    def ask(
        self,
        path: str,
        body: object = None,
        *,
        method: str | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:  # noqa: ANN401  what JSON may be
        """Send a request, and again while the server is busy.

        Args:
            path: Begins with a slash.
            body: What to send as JSON; None for a request without a body.
            method: Of HTTP. Default: POST with a body, else GET.
            timeout_s: How long to wait for an answer to each try.

        Returns:
            The answer, parsed; None if it is empty or not JSON.

        Raises:
            BusyError: It stays busy.
            RefusedError: 401 or 403.
            UnreachableError: No answer, or another error.
        """
        for pause_s in self.pauses_s:
            try:
                return self._ask_with_token(path, body, method, timeout_s)
            except BusyError:
                time.sleep(pause_s)
        return self._ask_with_token(path, body, method, timeout_s)

    def answers(self, path: str, timeout_s: float = 3.0) -> bool:
        """Say whether a request is answered well at once.

        Args:
            path: Begins with a slash.
            timeout_s: How long to wait for it.
        """
        try:
            self._ask_once(path, None, None, timeout_s)
        except (UnreachableError, RefusedError):
            return False
        return True

    def _ask_with_token(self, path: str, body: object, method: str | None, timeout_s: float) -> Any:  # noqa: ANN401  what JSON may be
        """Ask as Prefect's own client does: with a token where the server wants one.

        It has a token for each client, for an hour or as its administrator has set it.
        """
        try:
            return self._ask_once(path, body, method, timeout_s)
        except TokenMissingError:
            client = str(uuid.uuid4())
            answer = self._ask_once(f"/csrf-token?client={client}", None, None, timeout_s)
        token = str(answer.get("token", "")) if isinstance(answer, dict) else ""
        self._token.update({"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token})
        return self._ask_once(path, body, method, timeout_s)

    def _ask_once(self, path: str, body: object, method: str | None, timeout_s: float) -> Any:  # noqa: ANN401  what JSON may be
        if not self.url.startswith(("http://", "https://")):
            raise UnreachableError(f"{self.name}: {self.url} is no address of http or https")
        try:
            request = urllib.request.Request(  # noqa: S310  http or https, as was checked
                self.url + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json", **self.headers, **self._token},
                method=method,
            )
            with self._opener().open(request, timeout=timeout_s) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise self._told(error) from error
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
        ) as error:  # the last: of the address
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            words = str(getattr(reason, "strerror", None) or reason).strip()
            raise UnreachableError(f"{self.name} at {self.url} does not answer: {words}") from error
        try:
            return json.loads(text) if text else None
        except ValueError:
            return None

    def _opener(self) -> urllib.request.OpenerDirector:
        """Go past the proxy to this machine, which it does not find."""
        host = urlsplit(self.url).hostname or ""
        if is_loopback(host):
            return urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener()

    def _told(self, error: urllib.error.HTTPError) -> UnreachableError | RefusedError:
        words = error.read(_LONGEST_WORDS).decode(errors="replace").strip()
        told = f"{self.name} at {self.url} answers {error.code} {error.reason}"
        if error.code in _REFUSALS:
            return TokenMissingError(told) if _CSRF in words else RefusedError(told)
        kind = BusyError if error.code in _BUSY else UnreachableError
        return kind(f"{told}{': ' * bool(words)}{words}")


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine's loopback interface.

    Args:
        host: A name or an address.
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def without_password(url: str) -> str:
    """Return a URL without the user's name and password.

    Args:
        url: The URL.
    """
    return _split_login(url)[1]


def unproxied(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep clients on this machine from asking a proxy for it.

    Args:
        environment: Environment variables; the hosts that they name stay.
    """
    return {
        name: ",".join(filter(None, [environment.get(name), _LOCAL_HOSTS]))
        for name in ("NO_PROXY", "no_proxy")
    }


def prefect_server(api_url: str, environment: Mapping[str, str]) -> Server:
    """Return the Prefect server at an address, with the user's key or password.

    Args:
        api_url: As in PREFECT_API_URL.
        environment: Environment variables, see ``profile.with_profile``.
    """
    headers = {}
    if pair := environment.get("PREFECT_API_AUTH_STRING"):  # the first, as for Prefect's client
        headers["Authorization"] = _basic(pair)
    elif key := environment.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    return Server("the Prefect server", without_password(api_url).rstrip("/"), headers)


def mlflow_server(tracking_uri: str, environment: Mapping[str, str]) -> Server:
    """Return the MLflow server at an address, with the user's token or password.

    Args:
        tracking_uri: As in MLFLOW_TRACKING_URI.
        environment: Environment variables.
    """
    headers = {}
    user = environment.get("MLFLOW_TRACKING_USERNAME")
    pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}" if user else ""
    pair = pair or _split_login(tracking_uri)[0]
    if pair:
        headers["Authorization"] = _basic(pair)
    elif token := environment.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return Server("the MLflow server", without_password(tracking_uri).rstrip("/"), headers)


def _split_login(url: str) -> tuple[str, str]:
    """The login of a URL, and the URL without it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # told when it is asked
        return "", url.rpartition("@")[2]
    login, _, host = parts.netloc.rpartition("@")
    return login, urlunsplit(parts._replace(netloc=host))


def _basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
