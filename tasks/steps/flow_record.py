"""``flow.json`` in a study's directory: the flow run that runs it, and where to look at it."""

from pathlib import Path

from pydantic import Field

from configs.base import Record
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.reading import directory_with, load_record
from tasks.tracking.addresses import hidden_password


class FlowRecord(Record):
    """The newest flow run of a study."""

    flow_run_id: str = Field(description="Prefect's id.")
    earlier_flow_run_ids: tuple[str, ...] = Field(
        default=(), description="Prefect's ids of the flow runs that worked here before."
    )
    tracking_uri: str = Field(description="Where MLflow has the study; without user and password.")
    experiment_id: str = Field(
        default="", description="MLflow's id of the study's experiment; empty until it is known."
    )
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
        DamagedFileError: It is cut off, or of another version.
    """
    try:
        return load_record(FlowRecord, flow_record_path(study_dir))
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


def begin_flow_record(study_dir: Path, flow_run_id: str, tracking_uri: str) -> FlowRecord:
    """Write down that a flow run works in a study's directory, and which ones did before.

    Args:
        study_dir: The study's directory.
        flow_run_id: Prefect's id of the flow run.
        tracking_uri: Where MLflow has the study.

    Returns:
        The record.

    Raises:
        OSError: It cannot be written.
        DamagedFileError: What is there is cut off, or of another version.
    """
    before = read_flow_record(study_dir)
    earlier = dict.fromkeys((*before.earlier_flow_run_ids, before.flow_run_id)) if before else {}
    earlier.pop(flow_run_id, None)
    record = FlowRecord(
        flow_run_id=flow_run_id,
        earlier_flow_run_ids=tuple(earlier),
        tracking_uri=hidden_password(tracking_uri),  # whoever may read the runs reads this file
    )
    write_flow_record(study_dir, record)
    return record


def directory_of(flow_run_id: str, runs_dir: Path) -> Path | None:
    """Find the study's directory that a flow run has worked in before.

    Prefect runs the same flow run again when a person retries or resumes it.

    Args:
        flow_run_id: Prefect's id of the flow run.
        runs_dir: Directory of all runs; it need not exist.

    Returns:
        The directory; None if the flow run has begun none.

    Raises:
        DamagedFileError: There is one, but its record is cut off, or of another version.
    """

    def named(study_dir: Path) -> list[str]:
        record = read_flow_record(study_dir)
        return [record.flow_run_id, *record.earlier_flow_run_ids] if record else []

    return directory_with(flow_record_path(Path()).name, runs_dir, named, flow_run_id)
