"""Where MLflow is, as it may be shown to everybody who sees a study: without passwords."""

import os
import re
import shlex
from urllib.parse import quote, urlsplit, urlunsplit

from configs.addresses import MLFLOW_UI_VARIABLE

_PORT = 5000
LOCAL = f"http://127.0.0.1:{_PORT}"
"""Address of the server that a person starts by ``opening_command``."""
_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/]*@", re.IGNORECASE)


def server_address(tracking_uri: str) -> str:
    """Return the address of an MLflow server for a browser, without a password in it.

    Args:
        tracking_uri: Where the runs are. If it is our server's (MLFLOW_TRACKING_URI), the address
            is that of WATERSHED_MLFLOW_UI, where that is set.

    Returns:
        The address; empty if it is no server.
    """
    shown = os.environ.get(MLFLOW_UI_VARIABLE)
    # Compared without logins, as records have none.
    ours = hidden_password(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if shown and ours and hidden_password(tracking_uri) == ours:
        tracking_uri = shown
    parts = urlsplit(tracking_uri)
    if parts.scheme not in {"http", "https"}:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")


def artifact_address(name: str, run_id: str) -> str:
    """Return the part of an artifact's address behind the MLflow server's, without a slash.

    Args:
        name: Of the artifact.
        run_id: The run that has it.
    """
    return f"get-artifact?path={quote(name)}&run_uuid={run_id}"


def opening_command(tracking_uri: str, program: str = "mlflow") -> str:
    """Return the command that shows a store which is no server.

    Args:
        tracking_uri: The store; user and password of a database are left out.
        program: How to call MLflow, as a shell reads it.
    """
    store = shlex.quote(hidden_password(tracking_uri))
    return f"{program} server --backend-store-uri {store} --port {_PORT}"


def hidden_password(tracking_uri: str) -> str:
    """Return an address with ``***`` in place of its user and password.

    Args:
        tracking_uri: Where the runs are.
    """
    return _USER.sub(r"\1***@", tracking_uri)
