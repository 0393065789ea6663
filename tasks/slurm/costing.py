"""Writes what jobs have cost, once they are over: one call for many, when there is time."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import Costs
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.accounting import Asked, Submitted, costs
from tasks.slurm.attempts import read_attempts
from tasks.slurm.bucket import Urgency
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry, Submission
from tasks.slurm.sightings import Accounted

_INTERVAL_S = 30.0
_INTERVAL_AT_END_S = 2.0
"""When no job of a study is left, somebody waits for its report."""
_MOST_AT_ONCE = 2000
_MOST_TRIES = 4
"""The accounting lags behind by seconds; after so many calls its last word counts."""


class Costing:
    """Writes ``costs.json`` for jobs that are over.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked_s = desk.clock.steady()
        self._next_s = self._asked_s + _INTERVAL_AT_END_S
        self._num_tries: dict[str, int] = {}

    def write_some(self) -> None:
        """Ask for the costs that are owed, and write those that are known."""
        ledger = self._desk.ledger
        now_s = self._desk.clock.steady()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _INTERVAL_AT_END_S
        owing = ledger.studies_owing_costs()
        is_end = bool(owing - ledger.live_studies())
        if not owing or (not is_end and now_s < self._asked_s + _INTERVAL_S):
            return
        self._asked_s = now_s
        owed = ledger.owed_costs(_MOST_AT_ONCE)
        submissions = {entry.run_dir: ledger.submissions(entry.run_dir) for entry in owed}
        jobs = [
            (entry.run_dir, one.slurm_job, one.name)
            for entry in owed
            for one in submissions[entry.run_dir]
            if one.slurm_job
        ]
        urgency = Urgency.LOOK if is_end else Urgency.CONFIRM
        rows = self._desk.calls.accounted(jobs, urgency)
        if rows is None:
            self._next_s = now_s + _INTERVAL_S
            return
        written = [
            entry.run_dir
            for entry in owed
            if self._is_settled(entry, rows.get(entry.run_dir, []))
            and self._write(entry, submissions[entry.run_dir], rows.get(entry.run_dir, []))
        ]
        ledger.costs_written(written)

    def _is_settled(self, entry: Entry, rows: Sequence[Accounted]) -> bool:
        """Whether the accounting has said its last word on a job."""
        if not self._desk.calls.has_accounting:
            return True
        tries = self._num_tries.get(entry.run_dir, 0) + 1
        ids = {row.slurm_job for row in rows if row.state.is_final}
        if tries >= _MOST_TRIES or entry.slurm_job in ids:
            self._num_tries.pop(entry.run_dir, None)
            return True
        self._num_tries[entry.run_dir] = tries
        return False

    def _write(
        self, entry: Entry, submissions: Sequence[Submission], rows: Sequence[Accounted]
    ) -> bool:
        directory = RunDirectory(Path(entry.run_dir))
        resources = self._desk.ledger.resources(entry)
        is_shared = entry.mode == "allocation"
        asked = Asked(
            nodes=resources.nodes,
            gpus=resources.nodes * resources.gpus_per_node,
            num_sharing=self._desk.ledger.num_jobs(entry.name) if is_shared else 1,
        )
        submitted = [
            Submitted(one.submission, one.slurm_job, one.submitting_s)
            for one in submissions
            if one.slurm_job
        ]
        try:
            found = costs(
                submitted,
                rows,
                read_attempts(directory),
                asked=asked,
                earlier=_earlier(directory),
            )
            if found.attempts:
                write_json(directory.costs, found.model_dump(mode="json"))
        except OSError:  # the disk may be full; it is tried again
            return False
        return True


def _earlier(directory: RunDirectory) -> Costs | None:
    with contextlib.suppress(FileNotFoundError, ValidationError):
        return Costs.model_validate_json(directory.costs.read_bytes())
    return None
