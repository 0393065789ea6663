"""Submits what is planned: every batch is written down before Slurm hears of it."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.launchers import SlurmLauncherConfig
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import is_locked
from tasks.slurm.batches import divide, write_batch
from tasks.slurm.bucket import Urgency
from tasks.slurm.concluding import Conclusions
from tasks.slurm.desk import Desk
from tasks.slurm.entries import Entry
from tasks.slurm.errors import (
    NotScriptable,
    SlurmBusy,
    SlurmClosed,
    SlurmError,
    SlurmMissing,
    SlurmRefused,
    SlurmVague,
)
from tasks.slurm.evidence import NOTHING
from tasks.slurm.judgement import DONE, REFUSED, Told
from tasks.slurm.limits import MOST_VAGUE, Limits
from tasks.slurm.plan import SERVER_MODULE, Batch, JobPlan, job_name
from tasks.slurm.states import Evidence, SlurmState

_log = logging.getLogger(__name__)

_LOOK_AFTER_S = 1.0
_IDLE_S = 5.0
_HELD_S = 10.0
_LIMITED_S = 5.0
_UNFINISHED = {Evidence.ALIVE, Evidence.SILENT, Evidence.REQUEUED}


@dataclass(frozen=True)
class _Ready:
    """A batch, ready to be submitted.

    Attributes:
        batch: The jobs.
        number: Of the submission.
    """

    batch: Batch
    number: int


class Submitter:
    """Submits one batch at a time, of each study in turn.

    Args:
        desk: The leader's desk.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._conclusions = Conclusions(desk.ledger, desk.clock)
        self._ready: dict[str, deque[_Ready]] = {}
        self._queued: set[str] = set()
        self._held_until_s: dict[str, float] = {}
        self._limits = Limits(desk.ledger, desk.clock)

    def submit_next(self) -> float:
        """Submit a batch, if there is one, and the bucket and the limits allow it.

        Returns:
            Seconds after which it is worth calling again; 0 if there may be more to do at once.
        """
        if self._desk.calls.trouble:
            return _IDLE_S
        self._queue()
        for study_dir, ready in list(self._ready.items()):
            index = self._next_of(study_dir, ready)
            if index is None:
                continue
            if wait_s := self._desk.calls.pay(Urgency.SUBMIT):
                return wait_s
            one = ready[index]
            del ready[index]
            del self._ready[study_dir]
            if ready:  # last of all studies now
                self._ready[study_dir] = ready
            self._queued -= {str(job.run_dir) for job in one.batch.jobs}
            self._submit(study_dir, one)
            return 0.0
        return _IDLE_S

    # --- what is ready

    def _queue(self) -> None:
        """Divide what has been planned since the last time."""
        now_s = self._desk.clock.steady()
        fresh: dict[str, list[str]] = {}
        for study_dir, run_dir in self._desk.ledger.due(self._desk.clock.unix()):
            if run_dir not in self._queued and now_s >= self._held_until_s.get(study_dir, now_s):
                fresh.setdefault(study_dir, []).append(run_dir)
        for study_dir, run_dirs in fresh.items():
            room = self._limits.room(study_dir, self._num_ready())
            jobs = []
            for run_dir in run_dirs[:room]:
                entry = self._desk.ledger.entry(run_dir)
                if entry is not None and (number := self._next_number(entry)):
                    jobs.append((entry, number))
            if not jobs:
                continue
            try:
                ready = self._divided(study_dir, jobs)
            except SlurmError as error:
                self._desk.calls.suspect(error)
                continue
            self._queued.update(entry.run_dir for entry, _ in jobs)
            self._ready.setdefault(study_dir, deque()).extend(ready)

    def _next_number(self, entry: Entry) -> int | None:
        """Return the number of a job's next submission; None if it must not be submitted now.

        What the ledger does not know, a run started by hand or from another ledger, is told by the
        run directory.
        """
        directory = RunDirectory(Path(entry.run_dir))
        if obstacle := self._obstacle(entry):
            self._conclusions.abandon(entry, obstacle)
            return None
        if is_locked(directory):  # a local process has it; there is room when it is done
            return None
        found = self._desk.watch.found(replace(entry, submission=0))
        if found.evidence is Evidence.UNREADABLE:
            return None
        if found.evidence is Evidence.FINISHED:
            self._conclusions.conclude(entry, DONE, Told(SlurmState.UNKNOWN), found)
            return None
        started = found.started
        if started is None or started.submission <= entry.submission:
            return entry.submission + 1
        if found.evidence in _UNFINISHED and started.slurm_job:
            self._desk.ledger.adopt(entry, started.slurm_job, started.submission)
            self._desk.agenda.ask(Urgency.LOOK, self._desk.clock.steady())
            return None
        return started.submission + 1

    def _obstacle(self, entry: Entry) -> str:
        """Say why a job can never be submitted; empty if it can."""
        run_dir = Path(entry.run_dir)
        if Path(entry.study_dir).parent.is_dir() and not run_dir.is_dir():
            return f"its directory {run_dir} was removed; run the study again"
        return self._desk.ledger.unreadable(entry)

    def _divided(self, study_dir: str, jobs: Sequence[tuple[Entry, int]]) -> list[_Ready]:
        config = self._desk.ledger.launcher(study_dir)
        max_array_size = 1
        if config.pack == "array" and len(jobs) > 1:
            max_array_size = self._desk.calls.max_array_size()
        numbers = {entry.run_dir: number for entry, number in jobs}
        plans = self._desk.ledger.plans(numbers)
        batches = divide(
            [
                _sparing(plan, entry.exclude, config)
                for plan, (entry, _) in zip(plans, jobs, strict=True)
            ],
            config,
            batches_dir=Path(study_dir) / "batches",
            max_array_size=max_array_size,
        )
        return [
            _Ready(batch, max(numbers[str(job.run_dir)] for job in batch.jobs)) for batch in batches
        ]

    def _next_of(self, study_dir: str, ready: Sequence[_Ready]) -> int | None:
        """Return which batch of a study may be submitted now; None if there is none."""
        now_s = self._desk.clock.steady()
        if now_s < self._held_until_s.get(study_dir, now_s):
            return None
        for index, one in enumerate(ready):
            if not self._limits.is_closed(one.batch):
                return index if self._may_run(study_dir, one.batch) else None
        return None

    def _may_run(self, study_dir: str, batch: Batch) -> bool:
        """Say whether ``max_running`` leaves room for a batch."""
        limit = self._desk.ledger.launcher(study_dir).max_running
        if limit is None or batch.jobs[0].module == SERVER_MODULE:
            return True
        running = self._desk.ledger.most_running(study_dir)
        most = min(len(batch.jobs), batch.max_running or len(batch.jobs))
        return running == 0 or running + most <= limit

    # --- one submission

    def _submit(self, study_dir: str, ready: _Ready) -> None:
        desk, batch = self._desk, ready.batch
        try:
            script = write_batch(batch, ready.number)
        except NotScriptable as error:
            self._refuse(batch, str(error))
            return
        except OSError as error:
            _log.warning("the script of %s cannot be written: %s", batch.directory, error)
            self._hold(study_dir, _HELD_S)
            return
        if not desk.ledger.begin(batch, ready.number, desk.clock.unix()):
            return  # one of the jobs has been cancelled; the others are divided again
        name = job_name(batch.key, ready.number)
        try:
            slurm_job = desk.calls.slurm.submit(script)
        except SlurmRefused as error:
            self._refuse(batch, str(error))
        except SlurmClosed as error:
            self._wait_for_partition(batch, name, error)
        except SlurmVague as error:
            self._doubt(study_dir, batch, name, error)
        except (SlurmBusy, SlurmMissing) as error:
            self._postpone(study_dir, name, error, self._limits.busy(study_dir, batch))
        except SlurmError as error:
            # It may have been accepted: nothing more is submitted before it has been looked for.
            desk.calls.suspect(error)
            desk.agenda.ask(Urgency.LOOK, desk.clock.steady() + _LOOK_AFTER_S)
        else:
            desk.ledger.accept(name, slurm_job, desk.clock.unix())
            if self._limits.accepted(study_dir, batch):
                self._hold(study_dir, _LIMITED_S)

    def _refuse(self, batch: Batch, words: str) -> None:
        for job in batch.jobs:
            entry = self._desk.ledger.entry(str(job.run_dir))
            if entry is not None:
                told = Told(SlurmState.UNKNOWN)
                self._conclusions.conclude(entry, REFUSED, told, NOTHING, words=words)

    def _postpone(self, study_dir: str, name: str, error: SlurmError, after_s: float) -> None:
        """Plan a batch again that Slurm does not take now; next time a smaller one, or later."""
        now_s = self._desk.clock.unix()
        self._desk.ledger.take_back(name, words=str(error), not_before_s=now_s, now_s=now_s)
        self._hold(study_dir, after_s)
        self._ready.clear()  # they are divided anew
        self._queued.clear()

    def _doubt(self, study_dir: str, batch: Batch, name: str, error: SlurmError) -> None:
        """Try a batch again that a policy does not allow, but not for ever."""
        after_s = self._limits.vague(study_dir, batch)
        if after_s is not None:
            self._postpone(study_dir, name, error, after_s)
            return
        times = f"{MOST_VAGUE + 1} times, with nothing else of yours in the queue"
        self._refuse(batch, f"{error} (said {times}: it is no limit on the number of jobs)")

    def _wait_for_partition(self, batch: Batch, name: str, error: SlurmError) -> None:
        """Plan a batch again whose partition is closed, and say so of all that wait with it."""
        words = self._limits.close(batch, str(error))
        now_s = self._desk.clock.unix()
        self._desk.ledger.take_back(name, words=words, not_before_s=now_s, now_s=now_s)
        beside = [
            str(job.run_dir)
            for ready in self._ready.values()
            for one in ready
            if self._limits.is_beside(one.batch, batch)
            for job in one.batch.jobs
        ]
        self._desk.ledger.tell_waiting(beside, words, now_s)

    def _num_ready(self) -> dict[str, int]:
        """Count the jobs of each study that Slurm gets next."""
        return {
            study_dir: sum(len(one.batch.jobs) for one in ready)
            for study_dir, ready in self._ready.items()
        }

    def _hold(self, study_dir: str, seconds: float) -> None:
        self._held_until_s[study_dir] = self._desk.clock.steady() + seconds


def _sparing(plan: JobPlan, exclude: str, config: SlurmLauncherConfig) -> JobPlan:
    """Leave out the nodes that are to blame for earlier failures."""
    if not exclude:
        return plan
    resources = plan.resources or config.resources()
    nodes = ",".join(filter(None, (resources.exclude, exclude)))
    return plan.model_copy(update={"resources": resources.model_copy(update={"exclude": nodes})})
