"""Every ZeRO is four numbers: over how many ranks each state of the training is split.

Degrees nest: each is a divisor of the next larger one, and all of them of the number of ranks.
Ranks of one shard group are neighbours: those with the same ``rank // degree``.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from configs.base import Fault, Record, Whole
from configs.topology import Topology

Degree = Annotated[Whole, Field(ge=1, le=10_000_000)]


class Partition(Record):
    """Over how many ranks each state is split.

    The optimizer's degree is a multiple of all others, and the forward degree of the backward one:
    an update reaches the weights by a pure gather, and what the backward pass gathers from is a
    part of what the forward pass has gathered.
    """

    forward: Degree = Field(description="Weights at rest; the forward pass gathers them.")
    backward: Degree = Field(
        description="Weights between forward and backward pass; the backward pass gathers them."
    )
    gradients: Degree = Field(description="Gradients summed over the micro-batches.")
    optimizer: Degree = Field(description="Master weights and moments.")

    @property
    def degrees(self) -> tuple[int, ...]:
        """The distinct degrees above 1, ascending."""
        return tuple(sorted({self.forward, self.backward, self.gradients, self.optimizer} - {1}))

    def faults(self, num_ranks: int, path: str) -> Iterator[Fault]:
        """Find degrees that do not nest or do not divide the ranks.

        Args:
            num_ranks: N.
            path: Dotted path of the partition, for the faults.

        Yields:
            The faults; each says which degrees would do.
        """
        choices = [degree for degree in range(1, num_ranks + 1) if num_ranks % degree == 0]
        values = {name: getattr(self, name) for name in type(self).model_fields}
        bad = {name: degree for name, degree in values.items() if num_ranks % degree}
        for name, degree in bad.items():
            message = f"{degree} does not divide {num_ranks} ranks; use {_listed(choices)}"
            yield Fault(path=f"{path}.{name}", message=message, related=("ranks",))
        if bad:
            return
        for name, above in _ORDER:
            low, high = values[name], values[above]
            if high % low:
                allowed = [degree for degree in choices if high % degree == 0]
                message = f"{low} does not divide {high}, the degree of {above}; "
                message += f"use {_listed(allowed)}, or a multiple of {low} there"
                yield Fault(path=f"{path}.{name}", message=message, related=(f"{path}.{above}",))
        ascending = sorted(set(values.values()))
        for low, high in itertools.pairwise(ascending):
            if high % low and not any({low, high} == {values[a], values[b]} for a, b in _ORDER):
                first, second = (next(n for n, d in values.items() if d == v) for v in (low, high))
                message = f"{low} ({first}) does not divide {high} ({second}); shards must nest, "
                message += f"use {_listed([d for d in choices if high % d == 0])}"
                yield Fault(path=f"{path}.{first}", message=message, related=(f"{path}.{second}",))


_ORDER = (("backward", "forward"), ("forward", "optimizer"), ("gradients", "optimizer"))
"""The first degree of each pair divides the second."""


def _listed(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}"


Row = Literal["ddp", "zero1", "zero2", "zero3", "zeropp", "mics", "hsdp", "hfsdp", "zero_topo"]
ROWS: tuple[str, ...] = get_args(Row)

_ROWS = {
    "ddp": ("1", "1", "1", "1"),
    "zero1": ("1", "1", "1", "N"),
    "zero2": ("1", "1", "N", "N"),
    "zero3": ("N", "N", "N", "N"),
    "zeropp": ("N", "node", "N", "N"),
    "mics": ("node", "node", "node", "node"),
    "hsdp": ("node", "node", "node", "node"),
    "hfsdp": ("node", "node", "node", "N"),
    "zero_topo": ("package", "package", "node", "N"),
}
"""Degrees of forward weights, backward weights, gradients and optimizer states."""


def named_partition(row: str, topology: Topology, num_ranks: int) -> Partition:
    """Return a row of the table of partitions for a machine.

    Args:
        row: One of ``ROWS``; ``zeropp`` is ZeRO++ with its hpZ.
        topology: The machine; its innermost level is the package, its outermost the node.
        num_ranks: N.

    Returns:
        The degrees; those of levels larger than the job are N.
    """
    sizes = {
        "1": 1,
        "package": min(topology.levels[0].ranks, num_ranks),
        "node": topology.node_ranks(num_ranks),
        "N": num_ranks,
    }
    forward, backward, gradients, optimizer = (sizes[word] for word in _ROWS[row])
    return Partition(forward=forward, backward=backward, gradients=gradients, optimizer=optimizer)


def row_faults(row: str, topology: Topology, num_ranks: int) -> Iterator[Fault]:
    """Find a number of ranks over which a row of the table does not nest.

    Args:
        row: One of ``ROWS``.
        topology: The machine.
        num_ranks: N: up to a node, or whole nodes.

    Yields:
        The fault, at ``ranks``: some package is not full, and the row splits weights over it.
    """
    if not any(named_partition(row, topology, num_ranks).faults(num_ranks, "")):
        return
    innermost = topology.levels[0]
    lower = num_ranks // innermost.ranks * innermost.ranks
    message = f"{innermost.ranks} ranks of a {innermost.name} do not divide {num_ranks} ranks; "
    message += f"use {lower} or {lower + innermost.ranks} ranks, or another partition than {row}"
    yield Fault(path="ranks", message=message, related=("topology", "partition"))


PartitionField = Partition | Row
"""Four degrees, or the name of a row."""
