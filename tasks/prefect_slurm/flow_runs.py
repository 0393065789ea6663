"""Flow runs as Prefect's server has them: read, found, and given another state."""

from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType

_PAGE = 200
_LEFT = {*TERMINAL_STATES, StateType.PAUSED}
"""States in which a flow run has no engine, once it had one; paused ones are suspended ones, as one
that waits in its engine is not handed to a worker."""


async def read(client: PrefectClient, ids: Iterable[UUID]) -> dict[UUID, FlowRun]:
    """Read flow runs.

    Args:
        client: Prefect's API.
        ids: Which, any number.

    Returns:
        Those that Prefect has, by their ids.
    """
    found = {}
    for page in _pages(sorted(ids)):
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=page))
        for flow_run in await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE):
            found[flow_run.id] = flow_run
    return found


def _pages(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    for start in range(0, len(ids), _PAGE):
        yield list(ids[start : start + _PAGE])


async def under_submission(client: PrefectClient, work_pool: str) -> list[FlowRun]:
    """Find the flow runs of a pool that a worker has taken, and that do not run.

    Args:
        client: Prefect's API.
        work_pool: Name of the pool.

    Returns:
        Those that are Pending or Cancelling.
    """
    kinds = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.CANCELLING])
    wanted = FlowRunFilter(state=FlowRunFilterState(type=kinds))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool]))
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=wanted, work_pool_filter=pool, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            return found


async def has_left_its_engine(client: PrefectClient, flow_run_id: UUID) -> bool:
    """Say whether a flow run that is handed over has come to an end since it last ran.

    Its engine does no more for it then, though its job may live on for a while.

    Args:
        client: Prefect's API.
        flow_run_id: The flow run.
    """
    for state in reversed(await client.read_flow_run_states(flow_run_id)):
        if state.type is StateType.RUNNING:
            return False
        if state.type in _LEFT:
            return True
    return False


async def propose(
    client: PrefectClient, flow_run: FlowRun, state: State[None], *, force: bool = False
) -> None:
    """Propose a state; what Prefect refuses has been overtaken, and is looked at again.

    Args:
        client: Prefect's API.
        flow_run: The flow run.
        state: Its next state.
        force: Past Prefect's rules.
    """
    await client.set_flow_run_state(flow_run.id, state, force=force)
