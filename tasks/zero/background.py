"""A call that runs beside the training."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Background(Generic[_T]):
    """A call on a thread of its own, begun at once.

    The thread does not keep the process alive: a rank that fails must end, also while another file
    system than its own hangs.

    Args:
        name: Of the thread.
        call: What to do.
    """

    def __init__(self, name: str, call: Callable[[], _T]) -> None:
        self._outcome: Future[_T] = Future()
        self._call = call
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def is_done(self) -> bool:
        """Say whether the call has returned or raised."""
        return self._outcome.done()

    def result(self) -> _T:
        """Wait for the call, and return what it returned, or raise what it raised."""
        return self._outcome.result()

    def _run(self) -> None:
        try:
            value = self._call()
        except BaseException as error:  # noqa: BLE001  raised where the outcome is asked for
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(value)
