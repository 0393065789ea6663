"""Notices what a person has done to a flow run in Prefect, while the flow waits for its jobs.

Nobody but the flow can stop them: Prefect knows of no process to kill on a cluster. *Cancel* and
*Pause* (which the interface sends as Suspended: the process is to end, and Resume starts another)
both mean that the jobs are to save and stop.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

_log = logging.getLogger(__name__)

_POLL_S = 2.0
_CANCELLED = {StateType.CANCELLING, StateType.CANCELLED}


class Wish:
    """What was done to the flow run; written by one thread, read by another.

    Attributes:
        state: The state that a person has set; None while nobody has.
    """

    def __init__(self) -> None:
        self.state: State[Any] | None = None

    @property
    def is_pause(self) -> bool:
        """Whether the flow run is to go on later."""
        return self.state is not None and self.state.type is StateType.PAUSED

    @property
    def is_cancel(self) -> bool:
        """Whether it is to end."""
        return self.state is not None and self.state.type in _CANCELLED

    def note(self, state: State[Any] | None) -> bool:
        """Take note of the flow run's state; return whether it says that the jobs are to stop.

        Args:
            state: The state; None if Prefect has not told it.
        """
        if state is None:
            return False
        # One who pauses without rescheduling wants the process to stay, and nobody would start it.
        is_suspended = state.type is StateType.PAUSED and state.state_details.pause_reschedule
        stops = bool(is_suspended) or state.type in _CANCELLED
        if stops:
            self.state = state
        return stops


@contextmanager
def cancelled_by_prefect(flow_run_id: str, cancel: Callable[[], None]) -> Iterator[Wish]:
    """Call ``cancel`` once, soon after the flow run was cancelled or paused in Prefect.

    Args:
        flow_run_id: Prefect's id of the flow run.
        cancel: Stops the jobs; called in a thread of its own.

    Yields:
        What was done to the flow run.
    """
    over = threading.Event()
    wish = Wish()

    def watch() -> None:
        told = ""
        while not over.wait(_POLL_S):
            try:
                if wish.note(state_of(flow_run_id)):
                    cancel()
                    return
            except Exception as error:  # noqa: BLE001  nobody else would stop the jobs
                if told != (told := repr(error)):  # else a traceback every two seconds
                    _log.exception("the jobs could not be cancelled; it is tried again")

    thread = threading.Thread(target=watch, name="cancellation", daemon=True)
    thread.start()
    try:
        yield wish
    finally:
        over.set()
        thread.join()


def state_of(flow_run_id: str) -> State[Any] | None:
    """Ask Prefect for the state of a flow run.

    Args:
        flow_run_id: Prefect's id of it.

    Returns:
        The state; None if the server does not answer: then nobody has cancelled anything.
    """
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(flow_run_id)).state
    except (httpx.HTTPError, PrefectException, OSError):
        return None
