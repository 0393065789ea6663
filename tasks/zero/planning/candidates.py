"""Candidates of the planner as arrays: a way through the batch, partition, formats, and time."""

from dataclasses import dataclass, field

import numpy as np

from tasks.zero.planning.space import Floats, Ints, Mask


@dataclass(frozen=True)
class Candidates:
    """Some candidates; all fields of shape (n,).

    Attributes:
        passes: Numbers of ways through the batch.
        partition: Numbers of partitions.
        transport: Numbers of formats.
        step_s: Times of a train step, or bounds of them.
    """

    passes: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    partition: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    transport: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    step_s: Floats = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.step_s)

    def take(self, chosen: Ints | Mask | slice) -> "Candidates":
        """Return some of them.

        Args:
            chosen: Their numbers, or a mask.
        """
        columns = (self.passes, self.partition, self.transport, self.step_s)
        return Candidates(*(column[chosen] for column in columns))  # type: ignore[arg-type]

    def joined(self, *others: "Candidates") -> "Candidates":
        """Return these and others, in this order.

        Args:
            others: Any.
        """
        every = (self, *others)
        return Candidates(
            np.concatenate([one.passes for one in every]),
            np.concatenate([one.partition for one in every]),
            np.concatenate([one.transport for one in every]),
            np.concatenate([one.step_s for one in every]),
        )

    def with_times(self, step_s: Floats) -> "Candidates":
        """Return these with other times.

        Args:
            step_s: Shape (n,).
        """
        return Candidates(self.passes, self.partition, self.transport, step_s)

    def sorted(self) -> "Candidates":
        """Return them from the fastest."""
        return self.take(np.argsort(self.step_s, kind="stable"))

    def first_of(self, group: Ints, most: int) -> "Candidates":
        """Return the first ones of each group, in their order.

        Args:
            group: Number of each one's group, shape (n,).
            most: Of one group.
        """
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        begins = np.searchsorted(ordered, ordered)
        kept = order[np.arange(len(order)) - begins < most]
        return self.take(np.sort(kept))


def skyline(step_s: Floats, memory: Ints) -> Ints:
    """Return those that none beats in one respect without being worse in the other.

    Args:
        step_s: Shape (n,).
        memory: Shape (n,).

    Returns:
        Their numbers, from the fastest, which needs most memory.
    """
    order = np.lexsort((step_s, memory))
    fastest = np.minimum.accumulate(step_s[order])
    before = np.concatenate([[np.inf], fastest[:-1]])
    return np.asarray(order[step_s[order] < before][::-1])


def distinct(some: Candidates) -> Candidates:
    """Leave out what stands there before, whatever its time.

    Args:
        some: In the order of preference.
    """
    columns = np.stack([some.passes, some.partition, some.transport])
    _, first = np.unique(columns, axis=1, return_index=True)
    return some.take(np.sort(first))
