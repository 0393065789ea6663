"""A world for the orchestrator: a fake Slurm on a virtual clock, a ledger, processes that die.

``World.begin`` starts an orchestrator process, as far as its state goes: a reconciler with its own
connection and its own lock. A process may be killed at any command and at any commit; the files and
the cluster stay.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess

from configs.launchers import SlurmLauncherConfig
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.calls import Clock
from tasks.slurm.commands import SlurmCli
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.leader import Leadership
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import JobPlan
from tasks.slurm.reconciler import Reconciler
from tests.fakes.controller import Timing
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.node import RunDirectoryNode
from tests.fakes.scripts import Size
from tests.fakes.slurm import FakeSlurm, Faults

DAY = Work(duration_s=86_400.0)
SINGLE = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
STATUS = ("squeue", "sacct", "scontrol")
"""Programs that only look."""

Point = Callable[[str], None]
"""Called at each point where a process may die, with the point's name."""


class Killed(BaseException):
    """The process is dead: nothing in it may catch this."""


class MortalFile(LedgerFile):
    """A ledger's file in a process that may die before and after each commit."""

    def __init__(self, path: Path, point: Point) -> None:
        self._point = point
        super().__init__(path)

    @contextmanager
    def transaction(self, *, is_durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Commit, with a chance to die before and after."""
        with super().transaction(is_durable=is_durable) as connection:
            before = connection.total_changes
            yield connection
            has_written = connection.total_changes > before
            if has_written:
                self._point("before a commit")
        if has_written:
            self._point("after a commit")


class World:
    """The cluster, the run directories and the ledger.

    Args:
        path: A directory for all files.
        work: What an incarnation of a job does; default: a minute, then success.
        faults: What goes wrong with Slurm.
        seed: Of all chances.
        config: How the study submits its jobs.
        size: What the cluster offers.
        timing: How long things take there.
        beat_every_s: Time between two heartbeats; 0 for one at the start only.
    """

    def __init__(
        self,
        path: Path,
        *,
        work: Callable[[Incarnation], Work] | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        config: SlurmLauncherConfig | None = None,
        size: Size | None = None,
        timing: Timing | None = None,
        beat_every_s: float = 10.0,
    ) -> None:
        self.node = RunDirectoryNode(work, beat_every_s=beat_every_s)
        self.slurm = FakeSlurm(seed, node=self.node, faults=faults, size=size, timing=timing)
        self.config = config or SlurmLauncherConfig(calls_per_minute=600, call_burst=1000)
        self.study_dir = path / "study"
        self.study_dir.mkdir(exist_ok=True)
        self.path = path
        self.ledger = LeaderLedger(LedgerFile(self._ledger_path))
        self.reconciler: Reconciler | None = None
        self._leadership: Leadership | None = None

    @property
    def now_s(self) -> float:
        """The virtual time."""
        return self.slurm.clock.now()

    @property
    def _ledger_path(self) -> Path:
        return self.path / "state" / "ledger.sqlite"

    def plan(self, name: str) -> JobPlan:
        """Make a run directory and the plan of its job."""
        run_dir = self.study_dir / "runs" / name
        run_dir.mkdir(parents=True, exist_ok=True)
        RunDirectory(run_dir).job.touch()
        return JobPlan(name=name, module="toy.job", run_dir=run_dir, python="/usr/bin/python3")

    def register(self, plans: Sequence[JobPlan], config: SlurmLauncherConfig | None = None) -> None:
        """Plan jobs, as any process may."""
        self.ledger.register(self.study_dir, config or self.config, plans, self.now_s)

    def begin(self, point: Point = lambda _: None) -> Reconciler:
        """Start a process; the one before dies."""
        self.die()
        self._leadership = Leadership(self.path / "state" / "leader.lock")
        self.reconciler = self._reconciler(self._leadership, point)
        return self.reconciler

    def another(self) -> Reconciler:
        """Start a process beside the one that leads."""
        return self._reconciler(Leadership(self.path / "state" / "leader.lock"), lambda _: None)

    def reopened(self) -> "World":
        """Return the same world with the ledger that is there now, which may be a new one."""
        self.die()
        self.ledger = LeaderLedger(LedgerFile(self._ledger_path))
        return self

    def _reconciler(self, leadership: Leadership, point: Point) -> Reconciler:
        def run(argv: Sequence[str], timeout_s: float) -> "CompletedProcess[str]":
            point(f"before {argv[0]}")
            answer = self.slurm.run(argv, timeout_s)
            point(f"after {argv[0]}")
            return answer

        return Reconciler(
            SlurmCli(run),
            MortalFile(self._ledger_path, point),
            leadership,
            clock=Clock(unix=self.slurm.clock.now, steady=self.slurm.clock.now),
            file_now=lambda _: self.slurm.clock.now(),
        )

    def die(self) -> None:
        """End the process as SIGKILL does: its lock is free, all it remembers is gone."""
        if self._leadership is not None:
            self._leadership.release()
        self.reconciler = self._leadership = None

    def run(
        self, until: Callable[[], bool] | float, limit_s: float = 100_000, stride_s: float = 0.2
    ) -> None:
        """Let the process step, and time pass, until something holds, or for some seconds."""
        reconciler = self.reconciler or self.begin()
        begun_s = self.now_s
        if isinstance(until, float | int):
            end_s, until = begun_s + until, lambda: self.now_s >= end_s
        while not until():
            assert self.now_s - begun_s < limit_s, self.describe()
            pause_s = reconciler.step()
            self.slurm.advance(stride_s if pause_s else 0.005)

    def entries(self) -> list[Entry]:
        """Return all jobs."""
        return self.ledger.entries()

    def states(self) -> list[LedgerState]:
        """Return the states of all jobs."""
        return [entry.state for entry in self.entries()]

    def entry(self, name: str) -> Entry:
        """Return the ledger's entry of a job."""
        entry = self.ledger.entry(str(self.study_dir / "runs" / name))
        assert entry is not None
        return entry

    def is_in(self, name: str, *states: LedgerState) -> bool:
        """Whether a job is in one of some states."""
        return self.entry(name).state in states

    def run_of(self, name: str) -> Incarnation:
        """Return the newest incarnation of a job."""
        return self.slurm.incarnations(self.entry(name).name)[-1]

    def result(self, name: str) -> tuple[str, str, str]:
        """Return status, reason and message of a job that has a result."""
        result = RunDirectory(self.study_dir / "runs" / name).read_result()
        assert result is not None
        return result.status, result.reason, result.message

    def submit(self, *names: str) -> None:
        """Submit jobs, and run until Slurm has started them."""
        self.register([self.plan(name) for name in names])
        self.run(lambda: all(self.is_in(name, LedgerState.RUNNING) for name in names), 300)

    def submit_anothers(self) -> str:
        """Let the user submit a job that is none of ours; return its name."""
        directory = self.path / "by-hand"
        directory.mkdir()
        (directory / "job.sh").write_text("#!/bin/bash\n#SBATCH --job-name=mine\n")
        with suppress(TimeoutError):  # it is accepted all the same
            self.slurm.run(["sbatch", "--parsable", str(directory / "job.sh")], 30)
        return "mine"

    def started(self, name: str) -> Incarnation:
        """Run until the newest incarnation of a job has started; return it."""
        self.run(lambda: self.run_of(name).started_s is not None, 300)
        return self.run_of(name)

    def requeued(self, name: str, run: Incarnation) -> None:
        """Run until Slurm has queued a job again."""
        self.run(lambda: self.run_of(name) is not run, 100)

    def are_over(self) -> bool:
        """Say whether all jobs are over."""
        return not self.ledger.live_studies()

    def describe(self) -> str:
        """Describe what is not over, for the message of a failed test."""
        waiting = [entry for entry in self.entries() if not entry.state.job_state.is_final]
        return f"it did not come to that: {waiting[:3]}"
