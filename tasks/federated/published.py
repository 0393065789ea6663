"""The versions of the model that a server has published, and for how long it keeps them."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor

from tasks.federated.messages import read_model, write_model
from tasks.runtime.atomic_files import sync_directory
from tasks.runtime.fence import Fence
from tasks.runtime.spool import Newest, Spool

MOST_BEHIND = 100
"""A version is kept for so many rounds at least. A client that finds its version older than that,
after it has said that it holds it, pulls again; so it can never lose the version it holds."""
_IN_MEMORY = 32


class PublishedModels:
    """Writes each version once, and finds it again.

    Args:
        spool: Where the versions lie.
        like: Any model: shape, type and device of all of them.
        fence: Of the server's attempt.

    Attributes:
        like: As given.
    """

    def __init__(self, spool: Spool, like: Tensor, fence: Fence) -> None:
        self._spool, self._fence = spool, fence
        self._recent: OrderedDict[int, tuple[Tensor, str]] = OrderedDict()
        self._newest: Newest | None = None
        self._is_announced = False
        self._not_synced: list[int] = []
        self.like = like

    def publish(self, version: int, model: Tensor) -> None:
        """Write a version, unless an earlier server has: what was pulled keeps its bits.

        Args:
            version: Server updates done.
            model: Parameters, shape (P,); copied.

        Raises:
            Overtaken: There is a newer server.
            OSError: It cannot be written.
        """
        path = self._spool.model(version)
        existing = read_model(path, self.like) if path.exists() else None
        if existing is None:
            existing = model.clone(), write_model(path, model, self._fence)
        self._not_synced.append(version)  # an earlier server may have been killed before it synced
        self._remember(version, existing)
        self._newest = Newest(version=version, sha256=existing[1])
        self._is_announced = False

    def announce(self) -> None:
        """Tell the workers to pull what was published last, unless they are told already.

        Raises:
            Overtaken: There is a newer server.
            OSError: It cannot be written.
        """
        if self._newest is not None and not self._is_announced:
            self._spool.announce(self._newest, self._fence)
            self._is_announced = True

    def sync(self) -> None:
        """Make all versions survive a power cut: behind a checkpoint they are not made again.

        Raises:
            OSError: They cannot be written.
        """
        for version in self._not_synced:
            with contextlib.suppress(FileNotFoundError), self._spool.model(version).open() as file:
                os.fsync(file.fileno())
        sync_directory(self._spool.models)
        self._not_synced = []

    def get(self, version: int) -> Tensor | None:
        """Return a version; None if it is not kept."""
        path = self._spool.model(version)
        if not path.exists():  # memory may have it, but a server that starts again has not
            return None
        found = self._recent.get(version) or read_model(path, self.like)
        if found is None:
            return None
        self._remember(version, found)
        return found[0]

    def forget(self, version: int, needed: Iterable[int]) -> None:
        """Remove versions that nobody works with.

        Args:
            version: The newest one.
            needed: Old versions to keep, beside those that workers hold.
        """
        kept = self._spool.held_versions().union(needed)
        for old in self._spool.versions():
            if old < version - MOST_BEHIND and old not in kept:
                self._spool.model(old).unlink(missing_ok=True)

    def _remember(self, version: int, model: tuple[Tensor, str]) -> None:
        self._recent[version] = model
        self._recent.move_to_end(version)
        if len(self._recent) > _IN_MEMORY:
            self._recent.popitem(last=False)
