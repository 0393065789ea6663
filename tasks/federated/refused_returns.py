"""Returns that must not be used: put aside with the reason, and counted."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from tasks.federated.messages import Refusal, Refused
from tasks.runtime.atomic_files import as_json
from tasks.runtime.fence import Fence
from tasks.runtime.spool import ReturnName, Spool

_MOST_KEPT = 100
"""Refused returns that are kept whole; of all others only the reason is."""
_HARMLESS = {Refusal.DUPLICATE, Refusal.TOO_OLD}
"""Nothing is wrong with these, so there is nothing to look at: only the checkpoint counts them."""


class RefusedReturns:
    """Puts returns aside, for one server.

    Args:
        spool: Where they lie.
        fence: Of the server's attempt.

    Attributes:
        reasons: How many returns were refused, by reason.
        not_finite: How many returns of each worker were refused as not finite.
        num_barren: Returns refused as not finite since one was taken.
    """

    def __init__(self, spool: Spool, fence: Fence) -> None:
        self._spool, self._fence = spool, fence
        self.reasons: Counter[str] = Counter()
        self.not_finite: Counter[int] = Counter()
        self.num_barren = 0

    def restore(self, reasons: Mapping[str, int]) -> None:
        """Go on from a checkpoint.

        Args:
            reasons: How many returns were refused, by reason. Those with something wrong are
                counted by what lies in ``refused/``.
        """
        self.reasons = Counter({k: n for k, n in reasons.items() if k in _HARMLESS})

    def recount(self) -> None:
        """Count what lies in ``refused/``, after a server was ended anyhow."""
        for path in self._spool.refused.glob("*.json"):
            reason, name = _parse(path.name)
            if reason not in _HARMLESS:
                self._count(reason, name)
        self.num_barren = 0

    def refuse(self, path: Path, refusal: Refused) -> None:
        """Put a return aside, with the reason; remove it if nothing is wrong with it.

        The reason is written first: killed in between, the same return is refused once more, and
        overwrites it. A server that is still the newest here knows all that could speak for it.

        Args:
            path: The return.
            refusal: The reason.

        Raises:
            Overtaken: There is a newer server.
            OSError: It cannot be put aside.
        """
        self._fence.check()
        name = ReturnName.parse(path.name)
        if refusal.reason in _HARMLESS and path.is_file():
            self._count(refusal.reason, name)
            path.unlink(missing_ok=True)
            return
        kept_name = path.name if name else sha256(os.fsencode(path.name)).hexdigest()[:16]
        kept = self._spool.refused / f"{refusal.reason}-{kept_name}"
        said = {"file": path.name, "reason": refusal.reason, "message": str(refusal)}
        # Not durable: what a power cut takes is a reason, and no return.
        self._fence.write(kept.with_name(f"{kept.name}.json"), as_json(said), is_durable=False)
        self._count(refusal.reason, name)
        num_wrong = sum(n for reason, n in self.reasons.items() if reason not in _HARMLESS)
        if path.is_file() and num_wrong > _MOST_KEPT:
            path.unlink()
        else:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                path.rename(_free(kept))

    def _count(self, reason: str, name: ReturnName | None) -> None:
        self.reasons[reason] += 1
        if reason == Refusal.NOT_FINITE and name:
            self.not_finite[name.worker] += 1
            self.num_barren += 1


def _free(path: Path) -> Path:
    """Return a path, or one like it, where nothing lies; a directory cannot be written over."""
    others = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(free for free in itertools.chain([path], others) if not free.exists())


def _parse(name: str) -> tuple[str, ReturnName | None]:
    reason, _, rest = name.removesuffix(".json").partition("-")
    return reason, ReturnName.parse(rest)
