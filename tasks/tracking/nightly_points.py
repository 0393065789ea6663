"""The points of a night: what its runs have measured, repeats of one configuration together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.study import label_of
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.axes import SEED_AXES
from tasks.tracking.cursor import read_cursor
from tasks.tracking.history import RunState, read_history
from tasks.tracking.machine import machine_of
from tasks.tracking.rows import row_of
from tasks.tracking.runs import result_metrics
from tasks.tracking.study_directory import StudyDirectory


@dataclass(frozen=True)
class Repeat:
    """One run of tonight.

    Attributes:
        config_hash: Of its experiment, the seed included.
        label: What varies, for people.
        state: How it stands.
        message: Why it failed; else empty.
        machine: Where it ran; empty if that is not known.
        run_id: Its run in MLflow; empty if it has none.
        values: Metric -> value, what was measured alone.
    """

    config_hash: str
    label: str
    state: RunState
    message: str
    machine: str
    run_id: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class PointGroup:
    """A point of the grid with its repeats: the runs that differ from it in their seed only.

    Attributes:
        label: What varies apart from the seed, for people.
        repeats: Its runs, at least one.
    """

    label: str
    repeats: tuple[Repeat, ...]

    @property
    def finished(self) -> tuple[Repeat, ...]:
        """The repeats that have finished."""
        return tuple(one for one in self.repeats if one.state == "finished")


def read_points(study_dir: Path, tracking_uri: str) -> list[PointGroup]:
    """Read what the runs of a study have left; points that are only predicted are left out.

    Args:
        study_dir: The study's directory.
        tracking_uri: Where its runs are tracked.

    Returns:
        The points, in the order of the grid.

    Raises:
        OSError: A file cannot be read.
        DamagedFileError: One is cut off, or of another version.
        TrackingError: A run's cursor cannot be read.
    """
    groups: dict[str, list[Repeat]] = {}
    for run in StudyDirectory(study_dir).points():
        history = read_history(run)
        if history.state == "predicted":
            continue
        varies = {
            axis: value for axis, value in history.job.coordinates.items() if axis not in SEED_AXES
        }
        groups.setdefault(label_of(varies), []).append(_repeat(run, tracking_uri))
    return [PointGroup(label, tuple(repeats)) for label, repeats in groups.items()]


def _repeat(run: RunDirectory, tracking_uri: str) -> Repeat:
    history = read_history(run)
    row = row_of(history)
    return Repeat(
        config_hash=history.job.config_hash,
        label=row.label,
        state=row.state,
        message=row.message,
        machine=machine_of(run),
        run_id=read_cursor(run, tracking_uri).run_id,
        values={name: value for name, value in result_metrics(row).items() if value is not None},
    )


def failures(groups: Sequence[PointGroup]) -> list[Repeat]:
    """Return the runs that have not finished.

    Args:
        groups: The points of a night.
    """
    return [one for group in groups for one in group.repeats if one.state != "finished"]
