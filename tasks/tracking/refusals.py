"""Exceptions of MLflow and of its artifact stores, turned into ours.

Where artifacts lie, a package of the store's maker sends them (boto3, azure, google), each with
exceptions of its own. What they have in common is read here: an HTTP status, a failure of the
network below them, a package that is absent.
"""

import errno
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

from tasks.tracking.addresses import hidden_password
from tasks.tracking.errors import TrackingError

_PERMANENT = {"INVALID_STATE"}
"""Codes of MLflow that go with a status 500 and stay."""
_BROKEN_OFF = (BrokenPipeError, ConnectionResetError)
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TO_BE_REPEATED = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_PACKAGES = {"azure": "azure-storage-blob azure-identity", "google": "google-cloud-storage"}
"""Top-level module -> what to install, where the names differ."""
_TOO_LARGE = "raise the limit of the server before MLflow (nginx: client_max_body_size)"
_LOGIN = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
_QUERY = re.compile(r"\b(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]*", re.IGNORECASE)
_ADDRESS = re.compile(r" for url: \S+")
_PAGE = re.compile(r"\.? Response (?:text|body): ['\"]?\s*(?:<.*)?$")


@contextmanager
def translated(tracking_uri: str) -> Iterator[None]:
    """Turn whatever MLflow and its artifact stores raise into ours.

    Args:
        tracking_uri: The store, for the message, where its password is hidden.

    Raises:
        TrackingError: MLflow is not there, or refuses; or a file of ours cannot be used.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # each artifact store has its own
        translation = _translation(error, f"MLflow at {hidden_password(tracking_uri)}")
        raise translation from error


def redacted(text: str) -> str:
    """Return a text without passwords, and without what stands behind ``?``, in its addresses.

    Signatures of cloud storage stand there.

    Args:
        text: Such as the text of an exception.
    """
    return _QUERY.sub(r"\1?***", _LOGIN.sub(r"\1***@", text))


def _translation(error: Exception, mlflow: str) -> TrackingError:
    """Say in one line what went wrong and what to do."""
    if isinstance(error, ImportError):
        module = (error.name or str(error)).partition(".")[0]
        return TrackingError(
            f"{mlflow} needs the Python package {module}, which is not installed here; install it "
            f"in Watershed's environment: pip install {_PACKAGES.get(module, module)}",
            permanent=True,
        )
    if silence := _silence(error):
        # A server that breaks off is there: it does so where a file is too large for it.
        is_there = any(isinstance(one, _BROKEN_OFF) for one in _chain(error))
        return TrackingError(f"{mlflow} does not answer ({silence})", unanswered=not is_there)
    if fault := _fault_of_file(error):
        return TrackingError(fault)
    status = _http_status(error)
    lines = str(error).strip().splitlines()
    reason = redacted(_ADDRESS.sub("", _PAGE.sub("", lines[0])) if lines else type(error).__name__)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        reason = f"{reason}; {_TOO_LARGE}"
    return TrackingError(
        f"{mlflow} refuses: {reason}",
        permanent=_is_permanent(error, status),
        unanswered=_is_database_away(error),
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was made of; MLflow wraps what its clients raised."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _silence(error: Exception) -> str:
    """Name the failure of the network that an error was made of; empty if it was of none."""
    import requests  # noqa: PLC0415  with mlflow
    from urllib3.exceptions import HTTPError as PoolError  # noqa: PLC0415  below boto3, too

    of_clients = (requests.ConnectionError, requests.Timeout, PoolError)
    network = (*of_clients, ConnectionError, TimeoutError, socket.gaierror)
    return next((type(one).__name__ for one in _chain(error) if isinstance(one, network)), "")


def _fault_of_file(error: Exception) -> str:
    """Say which file of this machine cannot be used; empty if that is not what went wrong."""
    if not isinstance(error, OSError) or not error.strerror:
        return ""
    path = str(error.filename2 or error.filename or "")
    is_full = error.errno in _FULL and path.startswith(tempfile.gettempdir())
    hint = "; TMPDIR may name another directory" * is_full
    return f"{path or 'a file for MLflow'} cannot be used: {error.strerror}{hint}"


def _http_status(error: Exception) -> int | None:
    """Return the status that a server has answered with; clients keep it in different places."""
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS  # noqa: PLC0415  3 s

    if code := getattr(error, "error_code", ""):
        return ERROR_CODE_TO_HTTP_STATUS.get(code, int(HTTPStatus.INTERNAL_SERVER_ERROR))
    for one in _chain(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, Mapping):  # of boto3
            found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(answer, "status_code", None)
        for status in (found, getattr(one, "status_code", None), getattr(one, "code", None)):
            if isinstance(status, int) and HTTPStatus.BAD_REQUEST <= status < 600:
                return status
    return None


def _is_permanent(error: Exception, status: int | None) -> bool:
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  with mlflow

    if any(isinstance(one, SQLAlchemyError) for one in _chain(error)):
        return False  # MLflow calls every fault of a database a bad request
    if getattr(error, "error_code", "") in _PERMANENT:
        return True
    return status is not None and status < 500 and status not in _TO_BE_REPEATED


def _is_database_away(error: Exception) -> bool:
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415  with mlflow

    return any(isinstance(one, OperationalError) for one in _chain(error))
