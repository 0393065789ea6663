"""``tracking.json`` in a run's (or study's) directory: its MLflow run, and how far it was sent."""

import uuid

from pydantic import Field

from configs.base import Record
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.addresses import hidden_password
from tasks.tracking.errors import TrackingError


class Cursor(Record):
    """What has been sent where.

    It may lag behind the truth, never lead: what is sent twice arrives once. Removing the file
    sends everything again, to a new MLflow run.
    """

    key: str = Field(description="Tag of the MLflow run, written down before the run is created.")
    tracking_uri: str = Field(description="Where the run is; without user and password.")
    run_id: str = Field(default="", description="MLflow's id of the run; empty until it exists.")
    offset: int = Field(default=0, ge=0, description="Bytes of the journal that were sent.")
    sequence: int = Field(default=0, ge=0, description="Number of the first line not sent.")
    is_predicted: bool = Field(
        default=False, description="Whether a point without a job was reported as predicted."
    )
    num_ended: int = Field(
        default=0, ge=0, description="Attempts that there were when the end was last reported."
    )
    untaken: str = Field(
        default="",
        description="What MLflow's artifact store has refused of it, and why; the next tracker "
        "tries again.",
    )


def read_cursor(directory: RunDirectory, tracking_uri: str) -> Cursor:
    """Read the cursor of a directory for one tracking store.

    Args:
        directory: The directory.
        tracking_uri: The store; a cursor of another store begins anew, under the same key.

    Returns:
        The cursor, which is on disk when this returns.

    Raises:
        TrackingError: It cannot be read or written.
    """
    try:
        stored = Cursor.model_validate_json(directory.tracking.read_bytes())
    except FileNotFoundError:
        stored = None
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{directory.tracking} cannot be read ({error}); remove it to send the run anew",
            permanent=True,
        ) from error
    # The file is read by whoever may read the runs.
    place = hidden_password(tracking_uri)
    if stored is not None and hidden_password(stored.tracking_uri) == place:
        return stored.model_copy(update={"tracking_uri": place})
    fresh = Cursor(key=stored.key if stored else uuid.uuid4().hex, tracking_uri=place)
    write_cursor(directory, fresh)
    return fresh


def write_cursor(directory: RunDirectory, cursor: Cursor) -> None:
    """Store a cursor, atomically.

    Args:
        directory: The directory.
        cursor: The cursor.

    Raises:
        TrackingError: It cannot be written; the old one stays.
    """
    try:
        write_atomically(directory.tracking, cursor.model_dump_json(indent=2).encode())
    except OSError as error:
        raise TrackingError(f"{directory.tracking} cannot be written: {error.strerror}") from error


def read_untaken(directory: RunDirectory) -> str:
    """Return what MLflow's artifact store has refused of a run, and why; writes nothing.

    Args:
        directory: The run, or the study.

    Returns:
        A sentence; empty if nothing was refused, or the run was not sent yet.
    """
    try:
        return Cursor.model_validate_json(directory.tracking.read_bytes()).untaken
    except (OSError, ValueError):  # the tracker tells of it
        return ""
