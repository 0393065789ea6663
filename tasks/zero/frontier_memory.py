"""Whether a training of ``tasks.zero.frontier`` fits into a GCD, and the largest models that do."""

from configs.sharding import named_partition
from configs.topology import load_topology
from configs.training_memory import ItemSizes, predicted_memory, state_memory
from tasks.zero.frontier import LAYERS, Assumptions, Contender, training

_MIXED = ItemSizes(weights=2, gradients=4, master=4, moments=8)
_PARAMETERS = 10**12
"""To divide by: states are proportional to the parameters."""


def gcd_bytes() -> int:
    """Return what a training may use of a GCD.

    Raises:
        ValueError: The file of Frontier does not say.
    """
    has = load_topology("frontier").device.memory_bytes
    if has is None:
        raise ValueError("frontier.yaml has no device.memory_bytes; write it there")
    return has


def needed_bytes(contender: Contender, num_ranks: int, assumptions: Assumptions) -> int:
    """Return what a contender needs of a GCD.

    Args:
        contender: Who.
        num_ranks: GCDs, a multiple of 8.
        assumptions: Micro-batch, and blocks that are gathered ahead.
    """
    frontier = load_topology("frontier")
    whole = training(contender, num_ranks, frontier, assumptions, layers=LAYERS)
    return predicted_memory(whole).total


def fits(contender: Contender, num_ranks: int, assumptions: Assumptions) -> bool:
    """Say whether a contender fits.

    Args:
        contender: Who.
        num_ranks: GCDs, a multiple of 8.
        assumptions: As of ``needed_bytes``.
    """
    return needed_bytes(contender, num_ranks, assumptions) <= gcd_bytes()


def largest_model(row: str, num_ranks: int) -> float:
    """Return the parameters whose states alone fill a GCD, gradients summed in FP32.

    Args:
        row: Of the table of partitions.
        num_ranks: GCDs.
    """
    degrees = named_partition(row, load_topology("frontier"), num_ranks)
    return gcd_bytes() * _PARAMETERS / state_memory(_PARAMETERS, degrees, _MIXED).states
