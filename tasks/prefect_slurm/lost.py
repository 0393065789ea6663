"""Finds flow runs that a worker took and died before it had written their job down."""

from collections.abc import Callable, Collection, Container
from functools import partial
from uuid import UUID

import anyio.to_thread
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Scheduled

from tasks.prefect_slurm.flow_runs import propose, under_submission
from tasks.prefect_slurm.jobs import FlowRunJobs
from tasks.prefect_slurm.since import Since

LOST_AFTER_S = 120.0
"""A flow run that is Pending for so long, and has no job, was lost by a worker that died."""
_EVERY_S = 15.0
_KIND = "lost"


class LostFlowRuns:
    """Has the lost flow runs of one pool taken again.

    Args:
        jobs: The jobs.
        work_pool: Name of the pool.
        submitting: The flow runs that this worker is about to submit.
        clock: Steady time, seconds.
        lost_after_s: See ``LOST_AFTER_S``.
    """

    def __init__(
        self,
        jobs: FlowRunJobs,
        *,
        work_pool: str,
        submitting: Callable[[], Container[UUID]],
        clock: Callable[[], float],
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self._jobs = jobs
        self._work_pool = work_pool
        self._submitting = submitting
        self._lost_after_s = lost_after_s
        self._since = Since(clock)

    async def look(self, client: PrefectClient, known: Collection[str]) -> None:
        """Look, but for a moment after the last time.

        Args:
            client: Prefect's API.
            known: Ids of the flow runs that have a job.

        Raises:
            httpx.HTTPError: Prefect does not answer.
        """
        if not self._since.may("look", self._work_pool, _EVERY_S):
            return
        seen = set()
        for flow_run in await under_submission(client, self._work_pool):
            is_known = str(flow_run.id) in known or flow_run.id in self._submitting()
            if is_known or flow_run.state is None or await self._has_job(flow_run):
                continue
            seen.add(str(flow_run.id))
            if self._since.for_s(_KIND, str(flow_run.id), holds=True) >= self._lost_after_s:
                await _give_back(client, flow_run)
        self._since.keep(_KIND, seen)

    async def _has_job(self, flow_run: FlowRun) -> bool:
        """Whether its job is or may be alive: on another cluster, or of another user's worker.

        The id of an earlier job stays until there is another one.
        """
        cluster, _, run_dir = (flow_run.infrastructure_pid or "").partition(":")
        if cluster != self._jobs.cluster:
            return bool(cluster)
        return await anyio.to_thread.run_sync(partial(self._jobs.may_live, run_dir))


async def _give_back(client: PrefectClient, flow_run: FlowRun) -> None:
    message = "A worker took it and died before it submitted its job; it is taken again."
    state: State[None] = Scheduled(name="Rescheduled", message=message)
    is_wished = flow_run.state is not None and flow_run.state.type is StateType.CANCELLING
    if is_wished:
        state = Cancelled(message="Cancelled; it never had a job.")
    await propose(client, flow_run, state, force=is_wished)
