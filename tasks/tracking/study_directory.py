"""The files of one study: its points' run directories, and what is made of them."""

import re
from dataclasses import dataclass
from pathlib import Path

from configs.study import Study
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
        """Return the run directories that have a job, in the order of the grid."""
        jobs = self.path.glob("points/*/job.json")
        return [RunDirectory(job.parent) for job in sorted(jobs, key=_position)]

    def read_study(self) -> Study:
        """Read ``study.json``.

        Raises:
            OSError: There is none.
            DamagedFileError: It is cut off, or of another version.
        """
        return load_record(Study, self.study)


def _position(job: Path) -> tuple[int, str]:
    number = job.parent.name.partition("-")[0]
    return int(number) if number.isdigit() else -1, job.parent.name
