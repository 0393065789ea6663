"""Task runs that a killed flow process has left: Prefect shows them as running for ever."""

import logging
from typing import Any
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.states import Crashed

_log = logging.getLogger(__name__)

_BEGUN = TaskRunFilter(
    state=TaskRunFilterState(
        type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
)


def close_stale_tasks(flow_run_id: str) -> int:
    """End the task runs that an earlier attempt of a flow run has left without an end.

    To be called before this attempt starts tasks of its own. A server that does not answer is no
    error: they only look wrong.

    Args:
        flow_run_id: Prefect's id of the flow run.

    Returns:
        How many there were.
    """
    own = _of(flow_run_id)
    closed: set[UUID] = set()
    ended: State[Any] = Crashed(message="its process ended before it did; see the newer task run")
    try:
        with get_client(sync_client=True) as client:
            while True:  # the server gives a page of them at a time
                page = client.read_task_runs(flow_run_filter=own, task_run_filter=_BEGUN)
                left = [task.id for task in page if task.id not in closed]
                if not left:
                    break
                for task_id in left:
                    client.set_task_run_state(task_id, ended, force=True)
                    closed.add(task_id)
    except (httpx.HTTPError, PrefectException, OSError) as error:
        _log.warning("task runs of the earlier attempt are shown as running still: %s", error)
    return len(closed)


def has_begun_tasks(flow_run_id: str) -> bool:
    """Say whether an earlier attempt of a flow run has come as far as to begin tasks.

    Args:
        flow_run_id: Prefect's id of the flow run, which has begun none in this attempt.

    Raises:
        httpx.HTTPError: The server does not answer.
        PrefectException: It does not tell.
    """
    with get_client(sync_client=True) as client:
        return bool(client.read_task_runs(flow_run_filter=_of(flow_run_id), limit=1))


def _of(flow_run_id: str) -> FlowRunFilter:
    return FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
