"""What the planner can choose from: partitions, formats on the wire, and passes; and their memory.

Symbols: N ranks, f | b | g | o the degrees of forward weights, backward weights, gradients and
optimizer. Candidates are kept as columns of arrays: there are millions of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.engines import engine_faults
from configs.sharding import Partition
from configs.topology import Topology
from configs.training import TrainingExperiment
from configs.training_memory import item_sizes, predicted_memory, state_memory
from configs.transport import BITS, Transport, Wire

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PREFETCHES = (1, 2)
"""What is searched unless other ones are wished. On links at their peaks none at all is slower, and
saves little: one block's weights."""
TIE = 1e-3
"""Share of the step time about which the cost model tells nothing: then simpler is better."""
MOST_MICRO_BATCH = 100_000
MOST_ACCUMULATION = 1_000_000


@dataclass(frozen=True)
class Partitions:
    """Many partitions; all fields of shape (P,).

    Attributes:
        forward: f of each.
        backward: b.
        gradients: g.
        optimizer: o, which is a multiple of the others.
    """

    forward: Ints
    backward: Ints
    gradients: Ints
    optimizer: Ints

    def __len__(self) -> int:
        return len(self.forward)

    def take(self, chosen: Ints | Mask) -> "Partitions":
        """Return some of them.

        Args:
            chosen: Their numbers, or a mask of shape (P,).
        """
        columns = (self.forward, self.backward, self.gradients, self.optimizer)
        return Partitions(*(column[chosen] for column in columns))

    def partition(self, number: int) -> Partition:
        """Return one of them as a record.

        Args:
            number: From 0.
        """
        return Partition(
            forward=int(self.forward[number]),
            backward=int(self.backward[number]),
            gradients=int(self.gradients[number]),
            optimizer=int(self.optimizer[number]),
        )

    def find(self, partition: Partition) -> int:
        """Return the number of a partition.

        Args:
            partition: Any.

        Returns:
            Its number; -1 where it is none of them.
        """
        is_it = (
            (self.forward == partition.forward)
            & (self.backward == partition.backward)
            & (self.gradients == partition.gradients)
            & (self.optimizer == partition.optimizer)
        )
        return int(np.argmax(is_it)) if is_it.any() else -1


def nested_degrees(topology: Topology, num_ranks: int) -> Ints:
    """List the divisors of N that nest with all levels of a machine.

    Args:
        topology: The machine.
        num_ranks: N.

    Returns:
        Ascending, from 1 to N.
    """
    divisors = np.arange(1, num_ranks + 1)
    divisors = divisors[num_ranks % divisors == 0]
    sizes = [min(level.ranks, num_ranks) for level in topology.levels]
    for size in [size for size in sizes if num_ranks % size == 0]:
        divisors = divisors[(divisors % size == 0) | (size % divisors == 0)]
    return np.asarray(divisors)


def nested_partitions(topology: Topology, num_ranks: int) -> Partitions:
    """List all partitions with such degrees that nest: b | f | o, g | o, and g with b and f.

    Args:
        topology: The machine.
        num_ranks: N.
    """
    degrees = nested_degrees(topology, num_ranks)
    divides = degrees[None, :] % degrees[:, None] == 0  # [i, j]: i divides j
    backward, forward, optimizer = np.nonzero(divides[:, :, None] & divides[None, :, :])
    nests = divides | divides.T
    chain, gradients = np.nonzero(
        divides.T[optimizer] & nests[forward] & nests[backward]  # (chains, degrees)
    )
    return Partitions(
        degrees[forward[chain]],
        degrees[backward[chain]],
        degrees[gradients],
        degrees[optimizer[chain]],
    )


def of_engine(parts: Partitions, base: TrainingExperiment) -> Partitions:
    """Return those that the engine of a training can express.

    Args:
        parts: All.
        base: The training; its engine is asked.
    """
    if base.engine == "ours":
        return parts
    # Neither of the others has weights split over some, but not all, of the optimizer's ranks.
    flat = parts.take((parts.forward == parts.optimizer) | (parts.forward == 1))
    flat = flat.take((flat.gradients == flat.optimizer) | (flat.gradients == 1))
    plain = base.model_copy(update={"transport": Transport()})
    kept = [
        number
        for number in range(len(flat))
        if expressible(plain.model_copy(update={"partition": flat.partition(number)}))
    ]
    return flat.take(np.array(kept, dtype=np.int64))


def expressible(experiment: TrainingExperiment) -> bool:
    """Say whether the engine of a training can do its partition with its formats.

    Args:
        experiment: The training.
    """
    chosen = ("partition", "transport")
    return not any(fault.path.startswith(chosen) for fault in engine_faults(experiment))


def searched_transports(base: TrainingExperiment, *, is_exact: bool) -> list[Transport]:
    """List the formats on the wire that can be best.

    INT8 sums are left out: INT4 has fewer bytes to move, to write and to read, and as many
    kernels, so that no schedule is faster with INT8. A format of as many bytes as the state has at
    rest changes nothing.

    Args:
        base: The training.
        is_exact: Leave out all that round: only the states as they are.
    """
    if is_exact:
        return [Transport(), Transport(reuse_secondary=True)][: 2 if base.engine == "ours" else 1]
    if base.engine == "deepspeed":
        return [
            Transport(weights=weights, gradients=sums, sync=sums)
            for weights, sums in itertools.product(_WEIGHTS, _SUMS)
        ]
    if base.engine == "fsdp2":
        return [Transport()]
    halves: tuple[Wire, ...] = ("bfloat16",) if base.dtype != "bfloat16" else ()
    refreshes: tuple[Wire, ...] = ("full", *halves, "int8")
    syncs: tuple[Wire, ...] = ("full", "bfloat16", "int4")
    return [
        Transport(
            weights=weights, gradients=sums, sync=sync, refresh=refresh, reuse_secondary=reuses
        )
        for weights, sums, sync, refresh, reuses in itertools.product(
            _WEIGHTS, _SUMS, syncs, refreshes, (False, True)
        )
    ]


_WEIGHTS: tuple[Wire, ...] = ("full", "int8")
_SUMS: tuple[Wire, ...] = ("full", "int4")


def quantizes(transport: Transport) -> bool:
    """Say whether anything is sent in blocks with scales.

    Args:
        transport: The formats.
    """
    return bool(BITS.keys() & set(transport.model_dump().values()))


def num_rounded(transport: Transport) -> int:
    """Count the states that a transport rounds on the wire.

    Args:
        transport: The formats.
    """
    wires = (transport.weights, transport.gradients, transport.sync, transport.refresh)
    return sum(wire != "full" for wire in wires)


@dataclass(frozen=True)
class Passes:
    """How a rank goes through its share of the batch.

    Attributes:
        micro_batch: Sequences at a time.
        accumulation: Micro-batches of a train step.
        recompute: Whether blocks are computed again.
        prefetch: Visits that weights are gathered ahead.
    """

    micro_batch: int
    accumulation: int
    recompute: bool
    prefetch: int


def all_passes(sequences: int, prefetches: Sequence[int] = PREFETCHES) -> list[Passes]:
    """List all ways through the sequences of a rank, in equal micro-batches.

    Args:
        sequences: Of a rank in one train step, at least 1.
        prefetches: Visits ahead to choose from.
    """
    sizes = [size for size in range(1, sequences + 1) if sequences % size == 0]
    return [
        Passes(size, sequences // size, recompute, prefetch)
        for size in sizes
        if size <= MOST_MICRO_BATCH and sequences // size <= MOST_ACCUMULATION
        for recompute in (False, True)
        for prefetch in prefetches
    ]


def passing(base: TrainingExperiment, one: Passes) -> TrainingExperiment:
    """Return a training that goes through its batch so.

    Args:
        base: The training.
        one: How.
    """
    return base.model_copy(
        update={
            "micro_batch": one.micro_batch,
            "accumulation": one.accumulation,
            "recompute": one.recompute,
            "prefetch": one.prefetch,
        }
    )


def states_bytes(parts: Partitions, base: TrainingExperiment) -> Ints:
    """Return the bytes of the states on a device, as ``configs.training_memory`` has them.

    Args:
        parts: The partitions.
        base: The training: model and type.

    Returns:
        Bytes, shape (P,).
    """
    is_whole = parts.forward == parts.optimizer
    return np.where(is_whole, _of_degrees(parts, base, 1), _of_degrees(parts, base, 2))


def _of_degrees(parts: Partitions, base: TrainingExperiment, optimizer: int) -> Ints:
    """Add up tables by degree, with the sizes of a partition 1|1|1|optimizer."""
    split = Partition(forward=1, backward=1, gradients=1, optimizer=optimizer)
    sizes = item_sizes(base.model_copy(update={"partition": split}))
    degrees, number = np.unique(
        np.stack([parts.forward, parts.backward, parts.gradients, parts.optimizer]),
        return_inverse=True,
    )
    forward, backward, gradients, final = number.reshape(4, -1)
    memories = [
        state_memory(
            base.model.num_parameters,
            Partition(forward=2 * degree, backward=degree, gradients=degree, optimizer=degree),
            sizes,
        )
        for degree in map(int, degrees)
    ]
    # In these, the copy between the passes has the degree, and the weights at rest twice that.
    whole = np.array([one.secondary for one in memories], dtype=np.int64)
    sums = np.array([one.gradients for one in memories], dtype=np.int64)
    moments = np.array([one.optimizer for one in memories], dtype=np.int64)
    copies = np.where(parts.backward < parts.forward, whole[backward], 0)
    return np.asarray(whole[forward] + copies + sums[gradients] + moments[final])


def passing_bytes(parts: Partitions, base: TrainingExperiment, passes: list[Passes]) -> Ints:
    """Return the bytes of what is gathered and of activations.

    Args:
        parts: The partitions.
        base: The training.
        passes: Ways through the batch.

    Returns:
        Bytes, shape (passes, P).
    """
    rows = []
    for one in passes:
        trained = passing(base, one)
        split, whole = (
            predicted_memory(
                trained.model_copy(
                    update={
                        "partition": Partition(
                            forward=degree, backward=1, gradients=1, optimizer=degree
                        )
                    }
                )
            )
            for degree in (2, 1)
        )
        rows.append(
            np.where(
                parts.forward > 1,
                split.gathered + split.activations,
                whole.gathered + whole.activations,
            )
        )
    return np.stack(rows)
