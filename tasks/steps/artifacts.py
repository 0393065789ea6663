"""Shows things in Prefect, as well as it answers: no job is lost for want of an artifact."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_QUIET_S = 60.0
"""After a failure nothing is sent for so long: Prefect's client tries for half a minute itself."""


class Shown:
    """Sends artifacts; may be used from several threads.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._quiet_until_s = -1.0

    def send(self, call: Callable[[], _T]) -> _T | None:
        """Send an artifact, unless Prefect did not answer just now.

        Args:
            call: Sends it.

        Returns:
            What the call returns; None if it was not sent.
        """
        if self._clock() < self._quiet_until_s:
            return None
        try:
            return call()
        except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
            with self._lock:
                self._quiet_until_s = self._clock() + _QUIET_S
            _log.warning("Prefect does not take an artifact: %s; the jobs go on", error)
            return None

    def progress(self, share: float, told: str) -> UUID | None:
        """Begin to show how far something is; return by what to show more, None if it failed.

        Args:
            share: Per cent.
            told: How far, in words.
        """
        # A coroutine it is only where an event loop runs, which is not in a thread of a task.
        return self.send(lambda: cast("UUID", create_progress_artifact(share, description=told)))

    def more(self, artifact: UUID | None, share: float, told: str) -> UUID | None:
        """Show how far something is now; return by what to show more.

        Args:
            artifact: What ``progress`` or ``more`` has returned.
            share: Per cent.
            told: How far, in words.
        """
        if artifact is None:
            return self.progress(share, told)
        self.send(lambda: update_progress_artifact(artifact, share, description=told))
        return artifact

    def table(self, rows: list[dict[str, object]], told: str, key: str | None = None) -> None:
        """Show a table.

        Args:
            rows: Its rows.
            told: What it is.
            key: By which its versions are found; None for none.
        """
        self.send(lambda: create_table_artifact(table=rows, key=key, description=told))

    def link(self, address: str, text: str, told: str, key: str | None = None) -> bool:
        """Show a link; return whether it is shown.

        Args:
            address: Where to.
            text: What to click at.
            told: What it is.
            key: By which its versions are found; None for none.
        """
        return self.send(lambda: create_link_artifact(address, text, key, told)) is not None

    def markdown(self, text: str, told: str, key: str | None = None) -> bool:
        """Show a text; return whether it is shown.

        Args:
            text: Markdown.
            told: What it is.
            key: By which its versions are found; None for none.
        """
        return self.send(lambda: create_markdown_artifact(text, key, told)) is not None


SHOWN = Shown()
"""That of the process: all threads fall silent together when the server is away."""
