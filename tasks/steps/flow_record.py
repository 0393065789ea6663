"""``flow.json`` in a study's directory: the flow run that runs it, and where to look at it."""

from pathlib import Path

from pydantic import Field

from configs.base import Record
from tasks.runtime.atomic_files import write_atomically


class FlowRecord(Record):
    """The newest flow run of a study."""

    flow_run_id: str = Field(description="Prefect's id.")
    tracking_uri: str = Field(description="Where MLflow has the study.")
    comparison: str = Field(
        default="", description="Address of the comparison, behind that of an MLflow server."
    )
    tracking_error: str = Field(
        default="", description="Why MLflow has not got everything; empty if it has."
    )


def flow_record_path(study_dir: Path) -> Path:
    """Return where a study's record is."""
    return study_dir / "flow.json"


def read_flow_record(study_dir: Path) -> FlowRecord | None:
    """Read a study's record; None while there is none.

    Args:
        study_dir: The study's directory.

    Raises:
        ValidationError: The file is no record.
    """
    try:
        return FlowRecord.model_validate_json(flow_record_path(study_dir).read_bytes())
    except FileNotFoundError:
        return None


def write_flow_record(study_dir: Path, record: FlowRecord) -> None:
    """Write a study's record, atomically.

    Args:
        study_dir: The study's directory.
        record: The record.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(flow_record_path(study_dir), record.model_dump_json(indent=2).encode())
