"""The jobs of flow runs: written into the ledger, seen through by the reconciler, found again.

A flow run has a directory, ``<runs>/<flow run id>``, and in it a run directory for each time that
Prefect has asked for it: ``1``, and ``2`` after a retry, a resumption, or a crash. Within one, at
most one job is alive; what Slurm queues again, and what the reconciler submits again, are attempts
in the same one. While it is not over, asking again is asking for the same job; but one that is
ending does nothing more: its end is waited for, and then Prefect hands the flow run over anew.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from configs.launchers import SlurmLauncherConfig, SlurmResources
from tasks.prefect_slurm.records import MODULE, FlowRunJob
from tasks.prefect_slurm.tracked import LIVE, FlowRunEntry, TrackedJobs
from tasks.runtime.atomic_files import write_atomically
from tasks.runtime.records import Exit
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.signs import EXIT, EXIT_FAILED, EXIT_FINISHED
from tasks.slurm import preflight
from tasks.slurm.background import Background, ReconcilerStopped
from tasks.slurm.calls import Clock
from tasks.slurm.charging import charge
from tasks.slurm.commands import SlurmCli, run_command
from tasks.slurm.entries import Entry, LedgerState
from tasks.slurm.errors import SlurmError
from tasks.slurm.evidence import read_whole
from tasks.slurm.leader import Leadership
from tasks.slurm.ledger import Ledger
from tasks.slurm.ledger_file import LedgerFile, state_directory
from tasks.slurm.plan import JobPlan
from tasks.slurm.reconciler import Reconciler
from tasks.slurm.sightings import Partition, Slurm
from tasks.slurm.slurm_launcher import LEDGER_NAME, LOCK_NAME

_log = logging.getLogger(__name__)

_LOOK_S = 0.1
_NOT_SUBMITTED = {LedgerState.PLANNED, LedgerState.SUBMITTING}
_PARTITIONS_S = 60.0
"""So long an answer about the partitions is good: many flow runs may begin at once."""


class FlowRunJobs:
    """Submits, follows and cancels jobs of flow runs; may be used from several threads.

    Jobs outlive this, and are found again by whoever comes next.

    Args:
        slurm: The commands; default: those on PATH.
        state_dir: Where the ledger is; default: the user's, of this cluster.

    Attributes:
        cluster: Name of the cluster.
        state_dir: Where the ledger is.

    Raises:
        SlurmMissing: Slurm is not installed here.
        SlurmUnreachable: It does not answer.
        LedgerError: The ledger cannot be used.
        OSError: The state directory cannot be made.
    """

    def __init__(self, slurm: Slurm | None = None, state_dir: Path | None = None) -> None:
        # A command inherits the leader's lock, see ``leader``.
        self._slurm = slurm or SlurmCli(
            lambda argv, timeout_s: run_command(
                argv, timeout_s, inherited=self._leadership.descriptors
            )
        )
        self._leadership = Leadership(Path("/nonexistent"))  # none before the cluster is known
        self.cluster = self._slurm.cluster()
        self.state_dir = state_dir or state_directory(self.cluster)
        self._clock = Clock()
        self._ledger = Ledger(LedgerFile(self.state_dir / LEDGER_NAME))
        charge(self._ledger.file, 1)
        self._tracked = TrackedJobs(self._ledger)
        self._background = self._begin()
        self._lock = threading.Lock()
        self._partitions: list[Partition] = []
        self._asked_s = -_PARTITIONS_S

    def _begin(self) -> Background:
        self._leadership = Leadership(self.state_dir / LOCK_NAME)
        file = LedgerFile(self.state_dir / LEDGER_NAME)
        reconciler = Reconciler(self._slurm, file, self._leadership, clock=self._clock)
        # It waits for no study: what there is to know is asked of the ledger.
        return Background(reconciler, self._leadership, self._ledger, self.state_dir)

    def partitions_faults(self, resources: SlurmResources) -> list[str]:
        """Find what the cluster cannot give, as far as it says so now.

        Args:
            resources: What a job asks for.

        Returns:
            The faults, for people; none while Slurm does not answer: the job waits in the ledger.
        """
        if time.monotonic() - self._asked_s >= _PARTITIONS_S:
            charge(self._ledger.file, 1)
            try:
                self._partitions = self._slurm.partitions()
            except SlurmError as error:
                _log.warning("not checked against the cluster's partitions: %s", error)
                self._partitions = []
            self._asked_s = time.monotonic()
        if not self._partitions:
            return []
        return [str(fault) for fault in preflight.faults(resources, self._partitions)]

    def submit(
        self,
        flow_run_dir: Path,
        job: FlowRunJob,
        resources: SlurmResources,
        *,
        config: SlurmLauncherConfig,
        python: str | None = None,
        has_left: bool = False,
    ) -> Path:
        """Have a flow run's job submitted, unless one of it is alive; that one is it then.

        One that was cancelled, or whose flow has ended, is on its way out, though what runs beside
        the engine may take its time. It is marked, so that the flow run is asked for once more when
        it is gone (``Deed.TAKE_AGAIN``).

        Args:
            flow_run_dir: The flow run's directory, absolute; made if absent.
            job: What it runs.
            resources: What it asks for.
            config: What follows a failure.
            python: Python on the nodes; None for this one.
            has_left: Whether Prefect knows of an end of the flow run since it last ran.

        Returns:
            The run directory. The job is in the ledger; it is submitted soon.

        Raises:
            OSError: A file cannot be written.
        """
        with self._lock:
            run_dir = self._run_dir(flow_run_dir)
            entry = self._ledger.entry(str(run_dir))
            if entry is None or entry.state.job_state.is_final:
                flow_run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                run_dir.mkdir(mode=0o700, exist_ok=True)
                content = job.model_dump_json(indent=2).encode()
                write_atomically(RunDirectory(run_dir).job, content)
                plan = JobPlan(
                    name=f"{job.flow} {job.flow_run_name}".strip(),
                    module=MODULE,
                    run_dir=run_dir,
                    resources=resources,
                    python=python,
                )
                self._ledger.register(flow_run_dir, config, [plan], self._clock.unix())
            elif has_left or entry.wish_cancel or _has_flow_ended(run_dir):
                self._ledger.wish_cancel([str(run_dir)], self._clock.unix())
                self._tracked.asked_again(run_dir)
        self._background.wake()
        return run_dir

    def _run_dir(self, flow_run_dir: Path) -> Path:
        """Return the newest run directory if it is not over, else the next one."""
        live = self._ledger.file.read(
            "SELECT run_dir FROM jobs"  # noqa: S608  our own words
            f" WHERE state IN ({LIVE}) AND substr(study_dir, ?) = ?",
            (-len(flow_run_dir.name) - 1, f"/{flow_run_dir.name}"),
        )
        if live:  # perhaps elsewhere: the pool's ``runs_dir`` may have been changed since
            return Path(live[0][0])
        numbers = [
            int(path.name)
            for path in (flow_run_dir.iterdir() if flow_run_dir.is_dir() else ())
            if path.name.isdigit()
        ]
        newest = max(numbers, default=0)
        if newest and not self._is_over(flow_run_dir / str(newest)):
            return flow_run_dir / str(newest)
        return flow_run_dir / str(newest + 1)

    def may_live(self, run_dir: str) -> bool:
        """Say whether a job may be alive, as far as can be seen from here.

        Args:
            run_dir: Its run directory. It may be another user's, whose ledger and files we do not
                see; then nothing says that the job is over.
        """
        try:
            return not self._is_over(Path(run_dir))
        except OSError:
            return True

    def _is_over(self, run_dir: Path) -> bool:
        entry = self._ledger.entry(str(run_dir))
        if entry is not None:
            return entry.state.job_state.is_final
        # A process has died before it could write it down, or the ledger was lost: what is there
        # tells whether it has run; if it runs still, the reconciler adopts it.
        attempts = RunDirectory(run_dir).attempts()
        return bool(attempts) and (attempts[-1] / EXIT).exists()

    def tracked(self) -> list[FlowRunEntry]:
        """Return the jobs that are alive, or of whose end nobody has been told.

        See ``TrackedJobs.read``.
        """
        with self._lock:
            return self._tracked.read()

    def told(self, run_dir: str) -> None:
        """Take note that Prefect knows how a job has ended."""
        self._tracked.told(run_dir)

    def entry(self, run_dir: str) -> Entry | None:
        """Return a job as it stands in the ledger; None if it is not there."""
        return self._ledger.entry(run_dir)

    def cancel(self, run_dirs: Iterable[str]) -> None:
        """Have jobs cancelled, queued or running; what Slurm has not heard of never starts."""
        self._ledger.wish_cancel(run_dirs, self._clock.unix())
        self._background.wake()

    def revive(self) -> None:
        """Begin to follow the jobs again if that has come to an end by an error."""
        try:
            with contextlib.suppress(KeyError):
                self._background.state("")
        except ReconcilerStopped:
            _log.exception("the jobs are followed anew")
            self._background = self._begin()

    def close(self, grace_s: float = 0.0) -> None:
        """Follow the jobs no more; they go on.

        Args:
            grace_s: Longest wait for what has not been submitted yet, seconds. What then still has
                not is submitted by whoever leads next.
        """
        deadline_s = time.monotonic() + grace_s
        while time.monotonic() < deadline_s and any(
            one.entry.state in _NOT_SUBMITTED and not one.entry.wish_cancel
            for one in self.tracked()
        ):
            time.sleep(_LOOK_S)
        self._background.stop()


def _has_flow_ended(run_dir: Path) -> bool:
    """Whether the engine has come to an end by itself, so that Slurm has only to clean up.

    One that was stopped may go on in the same job: after a preemption, say.
    """
    attempts = RunDirectory(run_dir).attempts()
    found = read_whole(Exit, attempts[-1] / EXIT) if attempts else None
    return found is not None and found.code in {EXIT_FINISHED, EXIT_FAILED}
