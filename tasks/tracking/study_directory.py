"""The files of one study: its points' run directories, and what is made of them."""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from configs.study import Point, Study
from tasks.runtime.errors import DamagedFileError
from tasks.runtime.reading import load_record
from tasks.runtime.run_directory import RunDirectory


@dataclass(frozen=True)
class StudyDirectory:
    """One execution of a study.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def argument(self) -> str:
        """Its path as a shell reads it, so that a command with it can be pasted."""
        return shlex.quote(str(self.path))

    @property
    def study(self) -> Path:
        """The study, as JSON."""
        return self.path / "study.json"

    @property
    def report(self) -> Path:
        """What came out, in Markdown."""
        return self.path / "report.md"

    @property
    def curves(self) -> Path:
        """Figure: loss, accuracy and gradient norm."""
        return self.path / "curves.png"

    @property
    def speedup(self) -> Path:
        """Figure: measured against ideal speed-up, for studies that vary m or K."""
        return self.path / "speedup.png"

    @property
    def time_split(self) -> Path:
        """Figure: where the time of a train step goes, for studies of trainings."""
        return self.path / "time_split.png"

    @property
    def scaling(self) -> Path:
        """Figure: TFLOPS per device and efficiency over sizes, for scaling studies."""
        return self.path / "scaling.png"

    @property
    def scaling_split(self) -> Path:
        """Figure: where the time of a train step goes, measured and predicted, by size."""
        return self.path / "scaling_split.png"

    @property
    def scaling_page(self) -> Path:
        """The same figures to look around in, with a browser; needs no network."""
        return self.path / "scaling.html"

    @property
    def scaling_data(self) -> Path:
        """What they show, as JSON."""
        return self.path / "scaling.json"

    def point(self, index: int, label: str) -> RunDirectory:
        """Return the run directory of a grid point, which need not exist.

        Args:
            index: Position in the grid.
            label: What varies; it makes the name readable.
        """
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.")[:60]
        return RunDirectory(self.path / "points" / f"{index:03d}-{slug}")

    def points(self) -> list[RunDirectory]:
        """Return the run directories of all points, in the order of the grid.

        One whose ``job.json`` or whole directory is gone is among them, and is damaged: what was
        computed there is not to vanish from the study without a word. Only beside a ``study.json``
        that cannot be read are they those that are there.
        """
        jobs = self.path.glob("points/*/job.json")
        runs = {_position(job.parent): RunDirectory(job.parent) for job in jobs}
        for run in map(self._run_of, self.missing_points()):
            runs[_position(run.path)] = run
        return [runs[position] for position in sorted(runs)]

    def missing_points(self) -> list[Point]:
        """Return the points whose ``job.json`` is gone, which each had when the study was made."""
        jobs = self.path.glob("points/*/job.json")
        there = {number for number, _ in (_position(job.parent) for job in jobs)} - {-1}
        if len(there) >= self._num_points():  # as nearly always: the study need not be checked
            return []
        try:
            points = self.read_study().points()
        except (OSError, DamagedFileError):
            return []
        return [point for point in points if point.index not in there]

    def _run_of(self, point: Point) -> RunDirectory:
        return self.point(point.index, point.label)

    def _num_points(self) -> int:
        """Count the points of the grid as it is written; 0 if it cannot be read."""
        try:
            return math.prod(map(len, json.loads(self.study.read_bytes())["grid"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return 0

    def read_study(self) -> Study:
        """Read ``study.json``.

        Raises:
            OSError: There is none.
            DamagedFileError: It is cut off, or of another version.
        """
        return load_record(Study, self.study)


def _position(run: Path) -> tuple[int, str]:
    number = run.name.partition("-")[0]
    return int(number) if number.isdigit() else -1, run.name
