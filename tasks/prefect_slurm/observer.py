"""Watches the jobs of a pool's flow runs, and tells Prefect; carries its wishes to the jobs.

Everything is looked at anew again and again, and nothing depends on a message that may be lost:
jobs of an earlier worker are in the ledger, and flow runs that were cancelled are asked for.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Container
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio.to_thread
import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled, Crashed, Pending, Scheduled

from tasks.prefect_slurm.flow_runs import propose, read
from tasks.prefect_slurm.jobs import FlowRunJobs
from tasks.prefect_slurm.lost import LOST_AFTER_S, LostFlowRuns
from tasks.prefect_slurm.since import Since
from tasks.prefect_slurm.telling import (
    Deed,
    crashed_message,
    deed,
    queued_message,
    queued_name,
    shown_lines,
)
from tasks.prefect_slurm.tracked import FlowRunEntry
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.results import slurm_output

_T = TypeVar("_T")

_POLL_S = 2.0
_SHARE = 4.0
"""Least pause after a look, in units of what it took: thousands of flow runs take seconds."""
_QUEUED_AGAIN_S = 30.0
"""Least time between two reasons that are told; a busy queue changes them often."""
_CONFIRM_S = 4.0
"""A flow run is told to have crashed when it is still under way so long after its job's end."""
_DELETED_AFTER_S = 3600.0
"""A flow run that is missing for so long was deleted; before, its server may have lost its data."""
_REFUSED_EVERY_S = 600.0
_LEASE_EVERY_S = 60.0
_LEASE_S = 900.0
_TAIL_BYTES = 16_384
_ENDING = {StateType.CANCELLING, StateType.CANCELLED, StateType.COMPLETED}


class Observer:
    """Looks after the jobs of one pool until it is cancelled.

    Args:
        jobs: The jobs.
        work_pool: Name of the pool.
        server: Address of Prefect's API as jobs have it, see ``FlowRunJob.server``.
        submitting: The flow runs that this worker is about to submit.
        logger: For what concerns no single flow run.
        clock: Steady time, seconds.
        lost_after_s: See ``LOST_AFTER_S``.
    """

    def __init__(
        self,
        jobs: FlowRunJobs,
        *,
        work_pool: str,
        server: str,
        submitting: Callable[[], Container[UUID]],
        logger: "logging.Logger | logging.LoggerAdapter[logging.Logger]",
        clock: Callable[[], float] = time.monotonic,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self._jobs = jobs
        self._work_pool = work_pool
        self._server = server
        self._submitting = submitting
        self._logger = logger
        self._clock = clock
        self._since = Since(clock)
        self._lost = LostFlowRuns(
            jobs,
            work_pool=work_pool,
            submitting=submitting,
            clock=clock,
            lost_after_s=lost_after_s,
        )
        self._trouble = ""

    async def run(self) -> None:
        """Look again and again; a Prefect that does not answer is waited for."""
        while True:
            try:
                async with get_client() as client:
                    while True:
                        begun_s = self._clock()
                        await self.look(client)
                        self._say_trouble("")
                        await asyncio.sleep(max(_POLL_S, _SHARE * (self._clock() - begun_s)))
            except (httpx.HTTPError, PrefectException, OSError, sqlite3.OperationalError) as error:
                self._say_trouble(f"Prefect cannot be told of the jobs for now: {error!r}")
            except Exception:  # nobody else would look after the jobs
                self._logger.exception("The jobs of flow runs could not be looked after")
            await asyncio.sleep(_POLL_S)

    async def look(self, client: PrefectClient) -> None:
        """Look once.

        Args:
            client: Prefect's API.

        Raises:
            httpx.HTTPError: Prefect does not answer.
        """
        await _threaded(self._jobs.revive)
        tracked = [one for one in await _threaded(self._jobs.tracked) if self._is_ours(one)]
        flow_runs = await read(client, {UUID(one.job.flow_run_id) for one in tracked})
        for one in tracked:
            flow_run = flow_runs.get(UUID(one.job.flow_run_id))
            try:
                await self._attend(client, one, flow_run)
            except (httpx.HTTPStatusError, PrefectException) as error:  # of this one alone
                if self._since.may("refused", one.entry.run_dir, _REFUSED_EVERY_S):
                    run = one.job.flow_run_name
                    self._logger.warning("Prefect refuses what is told of %s: %r", run, error)
        await self._lost.look(client, {one.job.flow_run_id for one in tracked})

    def _is_ours(self, one: FlowRunEntry) -> bool:
        return one.job.work_pool == self._work_pool and one.job.server == self._server

    async def _attend(
        self, client: PrefectClient, one: FlowRunEntry, flow_run: FlowRun | None
    ) -> None:
        entry, state = one.entry, flow_run.state if flow_run is not None else None
        kind = state.type if state is not None else None
        ended_s = self._since.for_s("ended", entry.run_dir, holds=kind in _ENDING)
        what = deed(
            entry,
            kind,
            is_newest=one.is_newest,
            is_asked_again=one.is_asked_again,
            ended_s=ended_s,
        )
        silent_s = self._since.for_s("silent", entry.run_dir, holds=what is Deed.TELL_CRASHED)
        missing_s = self._since.for_s("missing", entry.run_dir, holds=flow_run is None)
        if flow_run is None or state is None:
            if one.is_final and missing_s >= _DELETED_AFTER_S:
                await self._close(entry.run_dir)
            return
        await self._keep(client, one, flow_run)
        if what is Deed.CANCEL:
            flow_run_logger(flow_run).info("The flow run is %s: its job is cancelled", state.name)
            await _threaded(partial(self._jobs.cancel, [entry.run_dir]))
        elif what is Deed.TELL_QUEUED:
            await self._tell_queued(client, one, flow_run)
        elif what is Deed.TELL_CANCELLED:
            name = f"job {entry.slurm_job}" if entry.slurm_job else "its job"
            await propose(
                client, flow_run, Cancelled(message=f"Cancelled; {name} is gone."), force=True
            )
        elif what is Deed.TELL_CRASHED:
            # The engine may have told the end while we read; what it says goes before.
            if silent_s >= _CONFIRM_S and flow_run.id not in self._submitting():
                self._log_end(one, flow_run)
                await propose(client, flow_run, Crashed(message=crashed_message(entry)))
        elif what is Deed.TAKE_AGAIN:
            if flow_run.id not in self._submitting():
                message = "Its former job is gone; it is taken again."
                await propose(client, flow_run, Scheduled(name="Rescheduled", message=message))
                await self._close(entry.run_dir)
        elif what is Deed.CLOSE:
            await self._close(entry.run_dir)

    async def _close(self, run_dir: str) -> None:
        await _threaded(partial(self._jobs.told, run_dir))
        self._since.forget(run_dir)

    async def _keep(self, client: PrefectClient, one: FlowRunEntry, flow_run: FlowRun) -> None:
        """Keep what a live job needs at Prefect: how it is found, and its place in a limit."""
        if one.is_final or not one.is_newest:
            return
        pid = infrastructure_pid(self._jobs.cluster, one.entry.run_dir)
        if flow_run.infrastructure_pid != pid and flow_run.id not in self._submitting():
            await client.update_flow_run(flow_run.id, infrastructure_pid=pid)
        state = flow_run.state
        lease = state.state_details.deployment_concurrency_lease_id if state is not None else None
        if state is None or state.type is not StateType.PENDING or lease is None:
            return
        # Else the limit's slot is given away after 300 s in the queue, and the run is cancelled at
        # its start. From there on the engine renews it.
        if self._since.may("lease", one.entry.run_dir, _LEASE_EVERY_S):
            with suppress(httpx.HTTPStatusError, PrefectException):  # it was reaped: too late
                await client.renew_concurrency_lease(lease, lease_duration=_LEASE_S)

    async def _tell_queued(
        self, client: PrefectClient, one: FlowRunEntry, flow_run: FlowRun
    ) -> None:
        name = queued_name(one.entry, is_asked_again=one.is_asked_again)
        if flow_run.state is None or flow_run.state.name == name:
            return
        if self._since.may("queued", one.entry.run_dir, _QUEUED_AGAIN_S, again=one.entry.slurm_job):
            message = queued_message(one.entry, is_asked_again=one.is_asked_again)
            flow_run_logger(flow_run).info("%s: %s", name, message)
            await propose(client, flow_run, Pending(name=name, message=message))

    def _log_end(self, one: FlowRunEntry, flow_run: FlowRun) -> None:
        """Show the last lines of the job, once, where people look for them."""
        if not self._since.may("logged", one.entry.run_dir, float("inf")):
            return
        logger = flow_run_logger(flow_run)
        run = RunDirectory(Path(one.entry.run_dir))
        for path in (run.stdout, slurm_output(one.entry)):
            if lines := shown_lines(_tail(path)):
                logger.error("Last lines of %s:\n%s", path, "\n".join(lines))

    def _say_trouble(self, words: str) -> None:
        if words and not self._trouble:
            self._logger.warning("%s; the jobs go on", words)
        elif self._trouble and not words:
            self._logger.info("Prefect answers again")
        self._trouble = words


def infrastructure_pid(cluster: str, run_dir: str | os.PathLike[str]) -> str:
    """Return how a flow run's job is found again: ``cluster:run directory``.

    Slurm's own id is not known yet when the flow run is handed over, and another one after a new
    submission; the run directory names the job over its whole life.

    Args:
        cluster: Name of the cluster.
        run_dir: The run directory.
    """
    return f"{cluster}:{os.fspath(run_dir)}"


async def _threaded(function: Callable[[], _T]) -> _T:
    """Call something that waits for a file or a database, without holding up the worker."""
    return await anyio.to_thread.run_sync(function)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
