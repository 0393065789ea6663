"""What a training keeps on each device, in closed form: states exactly, the rest as an estimate.

Symbols: Psi parameters, N ranks, f | b | g | o the degrees of forward weights, backward weights,
gradients and optimizer, L layers, h hidden width, V vocabulary, s sequence length, m sequences of a
micro-batch. Padding, frozen parameters, staging of quantized payloads and what the libraries keep
for themselves are left out.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from configs.gpt import Gpt
from configs.sharding import Partition, row_faults
from configs.topology import CLUSTER
from configs.training import TrainingExperiment
from configs.transport import BITS

ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2}
MOST_LEAVING = 2
"""Gradients on their way to their ranks at a time, while the next is computed: the depth of the
engine's queue. Each holds a unit's whole vector."""

_SAVED_OF_BLOCK = 17
"""Vectors of h that a block saves per token for its backward pass, with fused attention: input, two
norms, query, key and value, rotated query and key, output of the attention, 4 and 4 of the MLP."""
_FEEDBACK_COPIES = 4
"""Float32 copies of a gradient while error feedback quantizes it: with its error, what is left,
what is lost, and the error of last time."""
_FLOAT_BYTES, _SCALE_BYTES = 4, 4


@dataclass(frozen=True)
class ItemSizes:
    """Bytes of one parameter's states.

    Attributes:
        weights: At rest, and gathered.
        gradients: Sums over the micro-batches.
        master: Weights that the optimizer changes; 0 where it changes those at rest.
        moments: Both moments of Adam.
    """

    weights: int
    gradients: int
    master: int
    moments: int


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        weights: At rest.
        secondary: Copy between forward and backward pass, where b < f.
        gradients: Sums over the micro-batches.
        optimizer: Master weights and moments.
        errors: What quantization took from gradients and sums, kept with error feedback.
        gathered: Whole weights and gradients of the parts that are being computed; with error
            feedback the copies that it works on, too.
        activations: What the forward pass saves for the backward pass, logits included.
    """

    weights: int
    secondary: int
    gradients: int
    optimizer: int
    errors: int = 0
    gathered: int = 0
    activations: int = 0

    @property
    def states(self) -> int:
        """What stays from step to step, and the secondary copy."""
        kept = self.weights + self.secondary + self.gradients + self.optimizer
        return kept + self.errors

    @property
    def total(self) -> int:
        """All of it."""
        return self.states + self.gathered + self.activations


def state_memory(parameters: int, degrees: Partition, sizes: ItemSizes) -> DeviceMemory:
    """Divide the states over the devices: ``Psi (w/f + w/b if b < f + g'/g + (m + v)/o)``.

    Args:
        parameters: Psi.
        degrees: f, b, g and o.
        sizes: Bytes of each state.

    Returns:
        Bytes on one device.
    """
    has_secondary = degrees.backward < degrees.forward
    return DeviceMemory(
        weights=parameters * sizes.weights // degrees.forward,
        secondary=parameters * sizes.weights // degrees.backward if has_secondary else 0,
        gradients=parameters * sizes.gradients // degrees.gradients,
        optimizer=parameters * (sizes.master + sizes.moments) // degrees.optimizer,
    )


def predicted_memory(experiment: TrainingExperiment) -> DeviceMemory:
    """Predict what one device needs for a training.

    Args:
        experiment: The training.

    Returns:
        Bytes on one device; gathered parts and activations are estimates.
    """
    degrees = experiment.degrees
    states = state_memory(experiment.model.num_parameters, degrees, item_sizes(experiment))
    return DeviceMemory(
        weights=states.weights,
        secondary=states.secondary,
        gradients=states.gradients,
        optimizer=states.optimizer,
        errors=_errors(experiment),
        gathered=_gathered(experiment),
        activations=_activations(experiment),
    )


def whole_model_bytes(experiment: TrainingExperiment, *, on_host: bool) -> int:
    """Return what the whole model takes on each rank before another engine splits it.

    Args:
        experiment: The training.
        on_host: Of the host's memory, where all initial weights are drawn in float32; else of a
            device, to which DeepSpeed takes all of them, FSDP2 one stage after the other.

    Returns:
        Bytes; none for ours, which draws shards alone.
    """
    takes_all = {"ours": False, "deepspeed": True, "fsdp2": on_host}[experiment.engine]
    item = ITEM_BYTES[experiment.dtype]
    return takes_all * experiment.model.num_parameters * (max(4, item) if on_host else item)


_MOST_NODES = 1_000_000


def least_ranks(experiment: TrainingExperiment, has: int) -> int | None:
    """Return the smallest number of devices on which a training fits, with everything else as is.

    Args:
        experiment: The training; with a partition in numbers, more devices change nothing.
        has: Bytes of a device.

    Returns:
        Devices: up to a node those that divide it and that the partition allows, beyond it whole
        nodes; None if no number would do.
    """
    topology, row = experiment.topology, experiment.partition
    per_node = topology.ranks_per_node
    if isinstance(row, Partition):
        return None

    def fits(ranks: int) -> bool:
        return predicted_memory(experiment.model_copy(update={"ranks": ranks})).total <= has

    inside = [ranks for ranks in range(1, per_node) if per_node % ranks == 0]
    allowed = [ranks for ranks in inside if not any(row_faults(row, topology, ranks))]
    if found := next(filter(fits, allowed), None):
        return found
    nodes = range(1, _MOST_NODES + 1)
    first = bisect.bisect_left(nodes, True, key=lambda number: fits(number * per_node))  # noqa: FBT003
    return nodes[first] * per_node if first < len(nodes) else None


def item_sizes(experiment: TrainingExperiment) -> ItemSizes:
    """Return the bytes of each state: sums and master weights are float32, or float64."""
    item = ITEM_BYTES[experiment.dtype]
    exact = max(4, item)
    degrees = experiment.degrees
    is_own_master = item == exact and degrees.forward == degrees.optimizer
    return ItemSizes(item, exact, 0 if is_own_master else exact, 2 * exact)


def _errors(experiment: TrainingExperiment) -> int:
    """INT8 and scales of each quantized sum: ``Psi (1 + 4 / block) (1 + 1/d + ...)``.

    The first hop of a gradient has all of them, on every rank; others have those of a shard.
    """
    block = experiment.transport.block_size
    if not experiment.transport.error_feedback:
        return 0
    each = experiment.model.num_parameters * (block + _SCALE_BYTES) // block
    return sum(each // degree for degree in _quantized_degrees(experiment))


def _quantized_degrees(experiment: TrainingExperiment) -> Iterator[int]:
    """Yield the degree of each shard whose sum over ranks is sent in a quantized format.

    As ``tasks.zero.traffic.Moves`` has the hops: with a stop at the node where that is a degree.
    """
    degrees, ranks = experiment.degrees, experiment.ranks
    topology, transport = experiment.topology, experiment.transport
    node, final = topology.node_ranks(ranks), degrees.optimizer
    stops = {1, degrees.gradients, final} | {node} & set(degrees.degrees)
    hops = list(itertools.pairwise(sorted(stop for stop in stops if stop <= final)))
    hops += [(final, ranks)] if final < ranks else []
    for inner, outer in hops:
        is_across = topology.level_of(0, outer - inner) == CLUSTER
        if (transport.sync if is_across else transport.gradients) in BITS:
            yield inner
            if outer > final:  # the sum over replicas is quantized, too, and sent back
                yield outer


def _gathered(experiment: TrainingExperiment) -> int:
    """The largest part and those gathered ahead; the gradients of as many as leave at a time."""
    model, item = experiment.model, ITEM_BYTES[experiment.dtype]
    block = model.block_parameters
    largest = max(block, _end_parameters(model))
    weights = largest + experiment.prefetch * block if experiment.degrees.forward > 1 else 0
    gradients = largest + MOST_LEAVING * block
    has_feedback = experiment.transport.error_feedback and any(_quantized_degrees(experiment))
    copies = _FEEDBACK_COPIES * _FLOAT_BYTES * largest if has_feedback else 0
    return item * (weights + gradients) + copies


def _end_parameters(model: Gpt) -> int:
    return model.vocabulary * model.hidden + 2 * model.hidden


def _activations(experiment: TrainingExperiment) -> int:
    """``m s (17 h L + V)`` elements, or ``m s (h L + 17 h + V)``, and twice the logits exactly."""
    model, item = experiment.model, ITEM_BYTES[experiment.dtype]
    tokens = experiment.micro_batch * experiment.sequence
    block = _SAVED_OF_BLOCK * model.hidden
    saved = model.layers * block
    if experiment.recompute:
        saved = model.layers * model.hidden + block
    logits = model.vocabulary * (item + 2 * max(4, item))
    return tokens * (item * saved + logits)
