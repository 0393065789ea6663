"""How far a training is, and what it has counted: what a checkpoint says beside the weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.runtime.journal import finite
from tasks.zero.interface import StepReport
from tasks.zero.speed import Sums


@dataclass
class Progress:
    """Counts of a training, over all its restarts.

    Attributes:
        step: Train steps done.
        lines: Lines of the journal.
        wall_s: Wall time, when it was last saved.
        skipped: Train steps whose gradient was not finite.
        skipped_in_a_row: The last so many of them.
        since_line: Sums since the previous line of the journal.
        last_line: Metrics of that line.
    """

    step: int = 0
    lines: int = 0
    wall_s: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    since_line: Sums = field(default_factory=Sums)
    last_line: dict[str, float] = field(default_factory=dict)

    def add(self, report: StepReport, step_s: float) -> None:
        """Count a train step.

        Args:
            report: What the engine says of it.
            step_s: Its wall time.
        """
        self.step += 1
        self.skipped += report.is_skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if report.is_skipped else 0
        self.since_line.add(report, step_s)

    def end_line(self, metrics: Mapping[str, float]) -> None:
        """Begin to sum up for another line.

        Args:
            metrics: Of the line that is written now.
        """
        self.lines += 1
        self.since_line = Sums()
        self.last_line = finite({str(name): value for name, value in metrics.items()})

    def facts(self) -> dict[str, int | float | str]:
        """Return all but the step, for a checkpoint; floats survive that bit for bit."""
        return {
            "lines": self.lines,
            "wall_s": self.wall_s,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "since_line": json.dumps(self.since_line.facts()),
            "last_line": json.dumps(self.last_line),
        }

    @classmethod
    def of_facts(cls, step: int, facts: Mapping[str, int | float | str]) -> "Progress":
        """Return what ``facts`` was taken of.

        Args:
            step: Train steps done.
            facts: What a checkpoint says.
        """
        return cls(
            step=step,
            lines=int(facts["lines"]),
            wall_s=float(facts["wall_s"]),
            skipped=int(facts["skipped"]),
            skipped_in_a_row=int(facts["skipped_in_a_row"]),
            since_line=Sums(**json.loads(str(facts["since_line"]))),
            last_line=json.loads(str(facts["last_line"])),
        )
