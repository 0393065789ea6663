"""Arrivals replayed from a recorded trace."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from configs.trace import TracedBuffer
from tasks.federated.arrivals.interface import Arrivals
from tasks.federated.local_steps import StepLaw


class ReplayedArrivals:
    """The buffers of a trace, one after the other; it carries no state but the version."""

    def __init__(self, buffers: Sequence[TracedBuffer], draw_steps: StepLaw) -> None:
        self._buffers = buffers
        self._draw_steps = draw_steps
        self._released = _releases([buffer.pulled for buffer in buffers])

    def next_buffer(self, version: int) -> Arrivals:
        """Return the buffer that makes ``version`` into ``version + 1``."""
        buffer = self._buffers[version]
        worker = np.array([row.worker for row in buffer.returns], dtype=np.int64)
        sequence = np.array([row.sequence for row in buffer.returns], dtype=np.int64)
        traced_steps = [row.num_steps for row in buffer.returns if row.num_steps is not None]
        return Arrivals(
            worker=worker,
            pulled=np.array(buffer.pulled, dtype=np.int64),
            num_steps=(
                np.array(traced_steps, dtype=np.int64)
                if traced_steps
                else self._draw_steps(worker, sequence)
            ),
            sequence=sequence,
            pulled_at_s=np.array([row.pulled_at_s for row in buffer.returns]),
            returned_at_s=np.array([row.returned_at_s for row in buffer.returns]),
            released=self._released[version],
            num_dropped=buffer.num_dropped,
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return everything needed to go on from here: nothing, the version says it all."""
        return {}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a state that ``state()`` gave."""


def _releases(pulled: Sequence[Iterable[int]]) -> list[tuple[int, ...]]:
    """For each buffer, the versions that no later buffer has pulled."""
    last_use = list(range(len(pulled)))
    for version, versions in enumerate(pulled):
        for old in versions:
            last_use[old] = version
    released: list[list[int]] = [[] for _ in pulled]
    for old, version in enumerate(last_use):
        released[version].append(old)
    return [tuple(versions) for versions in released]
