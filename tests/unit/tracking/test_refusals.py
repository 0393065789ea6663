"""What MLflow and its artifact stores raise, in our words."""

import errno
import tempfile
from collections.abc import Callable

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_STATE, PERMISSION_DENIED
from sqlalchemy.exc import IntegrityError, OperationalError
from urllib3.exceptions import ConnectTimeoutError

from tasks.tracking.errors import TrackingError
from tasks.tracking.refusals import redacted, translated

_URI = "http://alice:s3cret@mlflow.site:5000"
_SHOWN = "MLflow at http://***@mlflow.site:5000"


def _told(raised: BaseException) -> TrackingError:
    with pytest.raises(TrackingError) as caught, translated(_URI):
        raise raised
    return caught.value


def _refused(status: int, text: str = "") -> requests.HTTPError:
    """What MLflow's client raises when an upload is answered with a status."""
    response = requests.Response()
    response.status_code = status
    response.reason = "No"
    response.url = f"{_URI}/api/2.0/mlflow-artifacts/artifacts/1/model.safetensors?signature=x1y2"
    with pytest.raises(requests.HTTPError) as caught:
        response.raise_for_status()
    told = f"{caught.value}. Response text: {text}" if text else str(caught.value)
    return requests.HTTPError(told, response=response)


class _ClientError(Exception):
    """As of botocore: the status is in a dictionary."""

    def __init__(self, status: int) -> None:
        super().__init__(f"An error occurred ({status}) when calling the PutObject operation")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class _UploadFailedError(Exception):
    """As of boto3, which wraps what botocore raised."""


def _of_boto3(status: int) -> Exception:
    cause = _ClientError(status)
    error = _UploadFailedError(f"Failed to upload a file: {cause}")
    error.__context__ = cause  # raised while that was handled
    return error


@pytest.mark.parametrize("make", [_refused, _of_boto3])
@pytest.mark.parametrize(
    ("status", "is_permanent"),
    [(400, True), (403, True), (413, True), (408, False), (429, False), (500, False), (507, False)],
)
def test_a_status_says_whether_sending_again_helps(
    make: Callable[[int], Exception], status: int, *, is_permanent: bool
) -> None:
    """What the client has done wrong stays wrong, but for being too slow or too early."""
    error = _told(make(status))

    assert error.permanent is is_permanent
    assert not error.unanswered
    assert str(status) in str(error)


def test_a_file_that_is_too_large_is_told_with_what_to_raise() -> None:
    """In one line, without the page of the server that refuses it."""
    told = str(_told(_refused(413, "<html>\r\n<head><title>413</title></head>")))

    assert told == (
        f"{_SHOWN} refuses: 413 Client Error: No; raise the limit of the server before MLflow "
        "(nginx: client_max_body_size)"
    )


def test_a_package_that_is_absent_is_named() -> None:
    """An artifact store on S3 needs boto3, which MLflow does not bring."""
    errors = [
        _told(ModuleNotFoundError("No module named 'boto3'", name="boto3")),
        _told(ModuleNotFoundError("No module named 'azure'", name="azure.storage.blob")),
    ]

    assert all(error.permanent for error in errors)
    assert "the Python package boto3, which is not installed here" in str(errors[0])
    assert str(errors[1]).endswith("pip install azure-storage-blob azure-identity")


def test_silence_is_no_refusal_whoever_meets_with_it() -> None:
    """MLflow wraps what its client raised; boto3 what urllib3 raised; all is to be repeated.

    Who breaks a connection off is there, and may answer the next request.
    """
    raised: list[Exception] = [requests.ReadTimeout("slow"), ConnectionResetError(104, "reset")]
    for cause in (requests.ConnectionError("x"), ConnectTimeoutError("slow")):
        wrapped = MlflowException(f"API request to {_URI}/api failed with exception {cause}")
        wrapped.__context__ = cause
        raised.append(wrapped)

    errors = [_told(error) for error in raised]

    assert [error.unanswered for error in errors] == [True, False, True, True]
    assert not any(error.permanent for error in errors)
    assert [str(error) for error in errors] == [
        f"{_SHOWN} does not answer ({name})"
        for name in (
            "ReadTimeout",
            "ConnectionResetError",
            "ConnectionError",
            "ConnectTimeoutError",
        )
    ]


def test_a_code_of_mlflow_says_whether_sending_again_helps() -> None:
    """But not one that it gives to the faults of its database."""
    of_database = MlflowException("unique", BAD_REQUEST)
    of_database.__cause__ = IntegrityError("INSERT", {}, Exception("unique"))
    away = MlflowException("gone", BAD_REQUEST)
    away.__cause__ = OperationalError("SELECT", {}, Exception("database is locked"))

    errors = [
        _told(raised)
        for raised in (
            MlflowException("no", PERMISSION_DENIED),
            MlflowException("deleted", INVALID_STATE),
            MlflowException("oops"),
            of_database,
            away,
        )
    ]

    assert [error.permanent for error in errors] == [True, True, False, False, False]
    assert [error.unanswered for error in errors] == [False, False, False, False, True]


def test_a_full_disk_of_this_machine_is_not_laid_to_mlflow() -> None:
    """The file and the reason are told, and for temporary ones how to put them elsewhere."""
    place = f"{tempfile.gettempdir()}/watershed-model-x/model.safetensors"

    full = _told(OSError(errno.ENOSPC, "No space left on device", place))
    closed = _told(PermissionError(errno.EACCES, "Permission denied", "/artifacts/1"))

    assert str(full) == (
        f"{place} cannot be used: No space left on device; TMPDIR may name another directory"
    )
    assert str(closed) == "/artifacts/1 cannot be used: Permission denied"
    assert not full.permanent


def test_whatever_else_is_raised_becomes_ours_without_passwords() -> None:
    """A store may have exceptions that nobody here knows; a text may repeat the whole address."""
    raised = RuntimeError(f"cannot parse {_URI}/x, nor https://bucket.site/key?sig=abc%2F1\nmore")

    error = _told(raised)

    assert str(error) == (
        f"{_SHOWN} refuses: cannot parse http://***@mlflow.site:5000/x, nor "
        "https://bucket.site/key?***"
    )
    assert error.__cause__ is raised


def test_what_is_ours_stays_as_it_is() -> None:
    """A refusal inside another request is told once."""
    ours = TrackingError("run r has no model in MLflow", permanent=True)

    assert _told(ours) is ours


@pytest.mark.parametrize(
    "uri", ["http://alice:s3:c@ret@host/x", "postgresql://me:s3cret@db:5432/mlflow"]
)
def test_logins_are_taken_out_of_any_text(uri: str) -> None:
    """Also of a database, and where the password has signs of its own."""
    told = redacted(f"no luck with '{uri}' (twice: {uri})")

    assert "ret" not in told
    assert told.count("://***@") == 2


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_is_no_refusal(signal: type[BaseException]) -> None:
    """Whoever stops the process stops it."""
    with pytest.raises(signal), translated(_URI):
        raise signal
