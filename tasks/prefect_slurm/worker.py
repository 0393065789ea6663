"""The worker of type ``slurm``: flow runs of its pool become jobs of Slurm.

    prefect work-pool create --type slurm POOL
    prefect worker start --pool POOL

Modelled on prefect-kubernetes: ``run`` hands a flow run over and returns at once; an observer looks
after all jobs, also those of an earlier worker. ``docs/worker.md`` says how to use it.
"""

import asyncio
import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio.abc
import anyio.to_thread
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import get_settings_context
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound
from prefect.settings import get_current_settings
from prefect.workers.base import BaseWorker

from configs.launchers import SlurmResources
from tasks.prefect_slurm.environment import (
    UnsafeFile,
    hidden_home,
    places,
    read_secrets,
    unreachable_secrets,
    with_secrets_file,
)
from tasks.prefect_slurm.flow_runs import has_left_its_engine
from tasks.prefect_slurm.jobs import FlowRunJobs
from tasks.prefect_slurm.observer import Observer, infrastructure_pid
from tasks.prefect_slurm.pool import (
    PoolFault,
    SlurmJobConfiguration,
    SlurmVariables,
    SlurmWorkerResult,
)
from tasks.prefect_slurm.records import FlowRunJob
from tasks.prefect_slurm.telling import in_words_of_the_pool
from tasks.slurm.errors import SlurmError
from tasks.slurm.ledger_file import LedgerError
from tasks.slurm.redaction import redact

_RUNS = "flow-runs"
_LOOK_S = 0.2
_GRACE_S = 5.0
"""At the end, for what has just been handed over: sbatch takes a second."""
_LOCAL_LAUNCHER = "run on this machine with `launcher: local`"
"""What the launcher of a study advises where there is no Slurm."""


class SlurmWorker(BaseWorker[SlurmJobConfiguration, SlurmVariables, SlurmWorkerResult]):
    """Runs flow runs as jobs of Slurm: each at most once at a time, and none is lost."""

    type = "slurm"
    job_configuration = SlurmJobConfiguration
    job_configuration_variables = SlurmVariables
    _display_name = "Slurm"
    _description = (
        "Run flows as jobs of a Slurm cluster. For flows that compute themselves, or where login "
        "nodes bear no long processes; the worker runs on a login node. From Watershed."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  Prefect's own
        super().__init__(*args, **kwargs)
        self._flow_run_jobs: FlowRunJobs | None = None
        self._observing: asyncio.Task[None] | None = None
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Find Slurm and the ledger, then start as all workers do; see to the jobs from now on.

        Raises:
            SystemExit: There is no Slurm, it does not answer, or the ledger cannot be used.
        """
        try:
            self._flow_run_jobs = await anyio.to_thread.run_sync(self._open_jobs)
        except (SlurmError, LedgerError, OSError) as error:
            # For the command line: one line, and no traceback.
            words = str(error).replace(_LOCAL_LAUNCHER, "use a work pool of type process")
            raise SystemExit(f"worker of type slurm: {words}") from error
        try:
            await super().__aenter__()
        except BaseException:
            await anyio.to_thread.run_sync(self._flow_run_jobs.close)
            raise
        observer = Observer(
            self._flow_run_jobs,
            work_pool=self._work_pool_name,
            server=_server(),
            submitting=lambda: self._submitting_flow_run_ids,
            logger=self._logger,
        )
        self._observing = asyncio.create_task(observer.run(), name="slurm jobs")
        return self

    async def __aexit__(self, *exc_info: Any) -> None:  # noqa: ANN401
        """Stop; the jobs go on, and the next worker finds them."""
        if self._observing is not None:
            self._observing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._observing
        try:
            await super().__aexit__(*exc_info)
        finally:
            if self._flow_run_jobs is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._flow_run_jobs.close, _GRACE_S)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> SlurmWorkerResult:
        """Write a flow run's job into the ledger; it is submitted and followed from there.

        Args:
            flow_run: The flow run.
            configuration: What its pool, its deployment and it itself ask for.
            task_status: Told how the job is found again, ``cluster:run directory``.

        Returns:
            At once; nothing is raised after the job is in the ledger.

        Raises:
            PoolFault: What is asked for cannot be; Prefect then shows the flow run as crashed.
            OSError: The run directory cannot be written.
        """
        resources = configuration.asked()
        await anyio.to_thread.run_sync(self._check_secrets, configuration, resources)
        secrets_file = _expanded(configuration.secrets_file)
        resources = with_secrets_file(resources, secrets_file)
        jobs = self._jobs
        async with self._asking:  # of many flow runs, one asks; the others need no thread to wait
            found = await anyio.to_thread.run_sync(partial(jobs.partitions_faults, resources))
        if found:
            words = in_words_of_the_pool("; ".join(found))
            raise PoolFault(f"the cluster cannot give what is asked for: {words}")
        if not await self._is_wanted(flow_run):
            if task_status is not None:
                task_status.started("")
            return SlurmWorkerResult(identifier="none", status_code=0)
        job = FlowRunJob(
            flow_run_id=str(flow_run.id),
            flow_run_name=flow_run.name,
            flow=configuration.flow_name,
            work_pool=self._work_pool_name,
            server=_server(),
            command=configuration.command_words(),
            environment=places(os.environ) | configuration.environment(),
            secrets_file=secrets_file,
            continue_at_time_limit=configuration.continue_at_time_limit,
        )
        runs_dir = _expanded(configuration.runs_dir) or jobs.state_dir / _RUNS
        has_left = await has_left_its_engine(self.client, flow_run.id)
        run_dir = await anyio.to_thread.run_sync(
            partial(
                jobs.submit,
                runs_dir.absolute() / str(flow_run.id),
                job,
                resources,
                config=configuration.launcher(resources),
                python=configuration.python,
                has_left=has_left,
            )
        )
        pid = infrastructure_pid(jobs.cluster, run_dir)
        if task_status is not None:
            task_status.started(pid)
        return SlurmWorkerResult(identifier=pid, status_code=0)

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: SlurmJobConfiguration,
        grace_seconds: int = 30,
    ) -> None:
        """Cancel a job, and wait for a while until it is gone; the wish outlives this worker.

        Args:
            infrastructure_pid: ``cluster:run directory``.
            configuration: Not looked at.
            grace_seconds: Longest wait.

        Raises:
            InfrastructureNotAvailable: It is a job of another cluster.
            InfrastructureNotFound: The ledger has no such job.
        """
        del configuration
        cluster, _, run_dir = infrastructure_pid.partition(":")
        jobs = self._jobs
        if cluster != jobs.cluster:
            raise InfrastructureNotAvailable(
                f"{infrastructure_pid} is a job of cluster {cluster}, and this worker is on "
                f"{jobs.cluster}"
            )
        entry = await anyio.to_thread.run_sync(jobs.entry, run_dir)
        if entry is None:
            raise InfrastructureNotFound(f"the ledger of {cluster} has no job in {run_dir}")
        await anyio.to_thread.run_sync(jobs.cancel, [run_dir])
        with anyio.move_on_after(grace_seconds):
            while entry is not None and not entry.state.job_state.is_final:
                await anyio.sleep(_LOOK_S)
                entry = await anyio.to_thread.run_sync(jobs.entry, run_dir)

    @property
    def _jobs(self) -> FlowRunJobs:
        if self._flow_run_jobs is None:
            raise RuntimeError("the worker has not been started; use it as a context manager")
        return self._flow_run_jobs

    def _open_jobs(self) -> FlowRunJobs:
        return FlowRunJobs()

    async def _is_wanted(self, flow_run: FlowRun) -> bool:
        """Whether nobody has cancelled it, or taken it, while it was being prepared."""
        state = (await self.client.read_flow_run(flow_run.id)).state
        return state is None or state.type is StateType.PENDING

    def _check_secrets(
        self, configuration: SlurmJobConfiguration, resources: SlurmResources
    ) -> None:
        """See that a job has the secrets that this worker has.

        Raises:
            PoolFault: It would not.
        """
        hidden = hidden_home(resources.container)
        profile = get_settings_context().profile.to_environment_variables()
        elsewhere = {} if hidden else dict(profile)
        path = _expanded(configuration.secrets_file)
        if path is not None:
            try:
                elsewhere |= read_secrets(path)
            except UnsafeFile as error:
                raise PoolFault(str(error)) from error
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        missing = unreachable_secrets(settings, os.environ, elsewhere, is_home_hidden=bool(hidden))
        if not missing:
            return
        names, file = ", ".join(missing), "a file of mode 600 that the pool's secrets_file names"
        if hidden:
            raise PoolFault(
                f"{names} of the worker would not reach the job: {hidden}, so that it does not see "
                f"your Prefect profile, and secrets are written into no job; put them into {file}"
            )
        raise PoolFault(
            f"{names} of the worker's environment would not reach the job, as secrets are written "
            "into no job: put them into your Prefect profile (prefect config set "
            f"{missing[0]}=...), or into {file}"
        )


def _server() -> str:
    return redact(str(get_current_settings().api.url or "")).rstrip("/")


def _expanded(path: str | None) -> Path | None:
    return Path(path).expanduser() if path else None
