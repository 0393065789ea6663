"""The jobs that somebody has still to look after: alive, or ended and Prefect has not been told."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tasks.prefect_slurm.records import MODULE, FlowRunJob, read_flow_run_job
from tasks.slurm.entries import JOB_COLUMNS, Entry, LedgerState, entry_of
from tasks.slurm.ledger import Ledger

LIVE = ", ".join(f"'{one}'" for one in LedgerState if not one.job_state.is_final)
"""States of the ledger, as SQL has them in a list."""
_TOLD = "told"
"""In a run directory that is over, and of whose end Prefect has been told."""
_ASKED_AGAIN = "asked-again"
"""In a run directory whose job was ending when Prefect asked for its flow run again."""


@dataclass(frozen=True)
class FlowRunEntry:
    """A job of a flow run.

    Attributes:
        entry: As it stands in the ledger.
        job: What it runs.
        is_newest: Whether Prefect has not asked for the flow run again since.
        is_asked_again: Whether it has, and waits for the end of this job to be given another one.
    """

    entry: Entry
    job: FlowRunJob
    is_newest: bool
    is_asked_again: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it is over."""
        return self.entry.state.job_state.is_final


class TrackedJobs:
    """Knows which jobs have still to be looked after. One thread at a time; ``told`` from any.

    Args:
        ledger: The ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: dict[str, FlowRunJob] = {}
        self._told: set[str] = set()
        self._last_row = 0
        self._newest: dict[str, int] = {}
        self._untold: set[str] = set()

    def read(self) -> list[FlowRunEntry]:
        """Return the jobs of flow runs that are alive, or of whose end nobody has been told.

        Of all workers of the user on this cluster.
        """
        entries = {entry.run_dir: entry for entry in self._alive_or_new()}
        for run_dir in self._untold - entries.keys():
            if entry := self._ledger.entry(run_dir):
                entries[run_dir] = entry
        for entry in entries.values():
            number = max(_number(entry), self._newest.get(entry.study_dir, 0))
            self._newest[entry.study_dir] = number
        untold = [entry for entry in entries.values() if not self._is_told(entry)]
        self._untold = {entry.run_dir for entry in untold}
        return [
            FlowRunEntry(
                entry,
                job,
                is_newest=_number(entry) == self._newest[entry.study_dir],
                is_asked_again=entry.wish_cancel and (Path(entry.run_dir) / _ASKED_AGAIN).exists(),
            )
            for entry in untold
            if (job := self._job(entry.run_dir))
        ]

    def _alive_or_new(self) -> Iterator[Entry]:
        """Read what is alive, and what has been added since the last time, from the indices.

        The ledger keeps all jobs that there have ever been, and is asked every two seconds.
        """
        ((last_row,),) = self._ledger.file.read("SELECT coalesce(max(rowid), 0) FROM jobs")
        rows = self._ledger.file.read(
            f"SELECT {JOB_COLUMNS} FROM jobs"  # noqa: S608  our own words
            f" WHERE (rowid > ? OR state IN ({LIVE})) AND instr(plan, ?)",
            (self._last_row, f'"module":"{MODULE}"'),
        )
        self._last_row = last_row
        return map(entry_of, rows)

    def told(self, run_dir: str) -> None:
        """Take note that Prefect knows how a job has ended."""
        self._told.add(run_dir)
        self._jobs.pop(run_dir, None)
        with contextlib.suppress(OSError):
            (Path(run_dir) / _TOLD).touch(mode=0o600)

    def asked_again(self, run_dir: Path) -> None:
        """Take note that Prefect has asked for a flow run again whose job is still ending.

        Args:
            run_dir: Its run directory.

        Raises:
            OSError: It cannot be written.
        """
        (run_dir / _ASKED_AGAIN).touch(mode=0o600)

    def _is_told(self, entry: Entry) -> bool:
        if not entry.state.job_state.is_final:
            self._told.discard(entry.run_dir)
            return False
        if entry.run_dir not in self._told and (Path(entry.run_dir) / _TOLD).exists():
            self._told.add(entry.run_dir)
        return entry.run_dir in self._told

    def _job(self, run_dir: str) -> FlowRunJob | None:
        if run_dir not in self._jobs:
            try:
                self._jobs[run_dir] = read_flow_run_job(Path(run_dir))
            except (OSError, ValidationError):
                return None  # removed by the user, or the file system does not answer
        return self._jobs[run_dir]


def _number(entry: Entry) -> int:
    name = Path(entry.run_dir).name
    return int(name) if name.isdigit() else 0
