"""``night.json`` in a study's directory: which night the study was run for."""

from datetime import date
from pathlib import Path

from pydantic import AwareDatetime, Field

from configs.base import Record
from configs.study import Study
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.reading import directory_with, load_record
from tasks.tracking.machine import allocation_of

NIGHT_TAG = "watershed.night"
MACHINE_TAG = "watershed.machine"
MACHINE_NAME_TAG = "watershed.machine_name"
ALLOCATION_TAG = "watershed.allocation"
HASH_TAG = "watershed.config_hash"
SINCE_TAG = "watershed.nightly_since"
VERDICT_TAG = "watershed.nightly.verdict"
MARK_PREFIX = "watershed.nightly."
"""Prefix of a metric: tag of a point's run with its mark that night."""


class NightRecord(Record):
    """The night that a study was run for."""

    night: date = Field(description="Date of its scheduled start, in the time zone.")
    time_zone: str = Field(description="IANA name of the zone that the date is of.")
    machine: str = Field(
        default="", description="Name of the machine, instead of the host's or the cluster's."
    )
    since: date | None = Field(
        default=None, description="Only nights from this date on are compared with."
    )
    num_parallel: int | None = Field(
        default=None, description="Local jobs at a time; None for the default."
    )
    flow_run_id: str = Field(
        default="", description="Prefect's id of the night's flow run, which a retry has too."
    )
    began: AwareDatetime | None = Field(
        default=None, description="When its first attempt began; None if that is not known."
    )


def night_path(study_dir: Path) -> Path:
    """Return where a study's record is."""
    return study_dir / "night.json"


def read_night(study_dir: Path) -> NightRecord | None:
    """Read a study's record; None if it was not run for a night.

    Args:
        study_dir: The study's directory.

    Raises:
        OSError: It cannot be read.
        DamagedFileError: It is cut off, or of another version.
    """
    try:
        return load_record(NightRecord, night_path(study_dir))
    except FileNotFoundError:
        return None


def write_night(study_dir: Path, record: NightRecord) -> None:
    """Write a study's record, atomically.

    Args:
        study_dir: The study's directory.
        record: The record.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(night_path(study_dir), record.model_dump_json(indent=2).encode())


def directory_of_night(flow_run_id: str, runs_dir: Path) -> Path | None:
    """Find the study's directory that a night's flow run has made before.

    Prefect runs the same flow run again when a person retries or resumes it.

    Args:
        flow_run_id: Prefect's id of the night's flow run.
        runs_dir: Directory of all runs; it need not exist.

    Returns:
        The directory; None if the flow run has made none.

    Raises:
        DamagedFileError: There is one, but its record is cut off, or of another version.
    """

    def named(study_dir: Path) -> list[str]:
        record = read_night(study_dir)
        return [record.flow_run_id] if record else []

    return directory_with(night_path(Path()).name, runs_dir, named, flow_run_id)


def night_tags(study: Study, study_dir: Path) -> dict[str, str]:
    """Return the tags by which runs of different nights are compared.

    Args:
        study: The study.
        study_dir: Its directory.

    Returns:
        What of the machine its jobs get; of a study that was run for a night, the night, too.

    Raises:
        OSError: The record cannot be read.
        DamagedFileError: It is cut off, or of another version.
    """
    record = read_night(study_dir)
    if record is None:
        return {ALLOCATION_TAG: allocation_of(study.launcher, None)}
    named = {MACHINE_NAME_TAG: record.machine} if record.machine else {}
    named |= {SINCE_TAG: record.since.isoformat()} if record.since else {}
    return {
        ALLOCATION_TAG: allocation_of(study.launcher, record.num_parallel),
        NIGHT_TAG: record.night.isoformat(),
        "watershed.time_zone": record.time_zone,
        **named,
    }
