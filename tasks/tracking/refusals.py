"""MLflow's exceptions, turned into ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.tracking.errors import TrackingError

_PERMANENT = {
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "ENDPOINT_NOT_FOUND",  # of a server that is older than what was asked of it
}


@contextmanager
def translated(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's exceptions into ours.

    Args:
        tracking_uri: The store, for the message.

    Raises:
        TrackingError: MLflow is not there, or refuses.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  3 s
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  with mlflow

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        code = getattr(error, "error_code", "")
        raise TrackingError(
            f"MLflow at {tracking_uri} {_reason(error)}", permanent=code in _PERMANENT
        ) from error


def _reason(error: Exception) -> str:
    """Say what went wrong in one line; MLflow wraps what its HTTP client raised."""
    if isinstance(error.__context__, OSError):
        return f"does not answer ({type(error.__context__).__name__})"
    lines = str(error).strip().splitlines()
    return f"refuses: {lines[0] if lines else type(error).__name__}"
