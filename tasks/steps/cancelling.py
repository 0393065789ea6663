"""Notices that a flow run was cancelled in Prefect, while the flow waits for its jobs.

Nobody but the flow can stop them: Prefect knows of no process to kill on a cluster.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

_log = logging.getLogger(__name__)

_POLL_S = 2.0
_CANCELLED = {StateType.CANCELLING, StateType.CANCELLED}


@contextmanager
def cancelled_by_prefect(flow_run_id: str, cancel: Callable[[], None]) -> Iterator[None]:
    """Call ``cancel`` once, soon after the flow run was cancelled in Prefect.

    Args:
        flow_run_id: Prefect's id of the flow run.
        cancel: Stops the jobs; called in a thread of its own.

    Yields:
        Nothing.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            try:
                if _is_cancelled(flow_run_id):
                    cancel()
                    return
            except Exception:  # noqa: BLE001  nobody else would stop the jobs
                _log.exception("the jobs could not be cancelled; it is tried again")

    thread = threading.Thread(target=watch, name="cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_cancelled(flow_run_id: str) -> bool:
    """Ask Prefect; a server that does not answer has cancelled nothing."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run_id)).state
    except (httpx.HTTPError, PrefectException, OSError):
        return False
    return state is not None and state.type in _CANCELLED
