"""Since when something holds, and whether it is time to do something again."""

from collections.abc import Callable, Container


class Since:
    """Remembers times by a kind and a name.

    Args:
        clock: Steady time, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: dict[tuple[str, str], float] = {}

    def for_s(self, kind: str, name: str, *, holds: bool) -> float:
        """Return for how long something has held; 0 from the look on that finds it."""
        if not holds:
            self._since_s.pop((kind, name), None)
            return 0.0
        return self._clock() - self._since_s.setdefault((kind, name), self._clock())

    def may(self, kind: str, name: str, every_s: float, *, again: str = "") -> bool:
        """Say whether it is time to do something once more; it is done then."""
        key = (f"{kind} {again}", name)
        since_s = self._since_s.get(key)
        if since_s is not None and self._clock() - since_s < every_s:
            return False
        self._since_s[key] = self._clock()
        return True

    def forget(self, name: str) -> None:
        """Forget all kinds of a name."""
        for key in [key for key in self._since_s if key[1] == name]:
            del self._since_s[key]

    def keep(self, kind: str, names: Container[str]) -> None:
        """Forget those of a kind that are not among the names."""
        for key in [key for key in self._since_s if key[0] == kind and key[1] not in names]:
            del self._since_s[key]
