"""What lies in the spool and waits to be taken, in the order in which it came."""

import contextlib
import os
from collections import defaultdict
from typing import NamedTuple

from tasks.runtime.spool import ReturnName, Spool


class Waiting(NamedTuple):
    """A file in ``returns/``: when it came, its name, and what that says if it is a return's."""

    came_ns: int
    text: str
    name: ReturnName | None


def waiting_returns(spool: Spool) -> list[Waiting]:
    """List what lies there by the time it came; returns of one worker in their order.

    A look costs 12 microseconds, and 30 more for each return that lies there (on a local disk).

    Args:
        spool: Where returns lie.

    Raises:
        OSError: The directory cannot be read.
    """
    found = _scan(spool)
    latest: dict[int, int] = {}
    for name in filter(None, (waiting.name for waiting in found)):
        latest[name.worker] = max(name.sequence, latest.get(name.worker, -1))
    if latest:
        # A directory that changes while it is listed may show a return of a worker and hide an
        # earlier one; that one was there before, so the next list has it.
        found |= {
            waiting
            for waiting in _scan(spool)
            if waiting.name and waiting.name.sequence < latest.get(waiting.name.worker, -1)
        }
    by_time = sorted(found, key=lambda waiting: (waiting.came_ns, waiting.text))
    in_order: dict[int, list[Waiting]] = defaultdict(list)
    returns = [(waiting.name, waiting) for waiting in by_time if waiting.name]
    for name, waiting in sorted(returns, reverse=True):
        in_order[name.worker].append(waiting)
    return [in_order[waiting.name.worker].pop() if waiting.name else waiting for waiting in by_time]


def _scan(spool: Spool) -> set[Waiting]:
    found = set()
    with os.scandir(spool.returns) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                    came_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                    found.add(Waiting(came_ns, entry.name, ReturnName.parse(entry.name)))
    return found
