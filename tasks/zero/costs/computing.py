"""How long a device computes: passes of the stages from their FLOPs, the update from its bytes.

Symbols: m sequences of a micro-batch, s tokens of each, h width, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from configs.topology import Device, Dtype
from configs.training import TrainingExperiment
from configs.training_memory import ITEM_BYTES
from tasks.zero.costs.coding import memory_rate

_MICRO = 1e-6
_GIGA = 1e9
_TERA = 1e12
_BACKWARD_PASSES = 2
"""FLOPs of a backward pass: two products for each one of the forward pass."""
_ITEMS_OF_UPDATE = 7
"""Numbers of an element that a fused AdamW reads (gradient, weight, two moments) and writes."""
_ITEMS_OF_LOOKUP = 2
_ITEMS_OF_COPY = 2


@dataclass(frozen=True)
class StageCompute:
    """Computing time of one stage and micro-batch; all seconds.

    Attributes:
        forward_s: Forward pass, and what the engine does for a visit.
        backward_s: Backward pass, the copy of the gradient into one vector, and the visit's share.
            The last stage's belongs to the same visit as its forward pass.
        recompute_s: Forward pass that the backward pass repeats.
    """

    forward_s: float
    backward_s: float
    recompute_s: float = 0.0


def rate_flops(device: Device, dtype: Dtype, flops: float) -> float:
    """Return the FLOPs a second that a device reaches on a piece of a size.

    Between two measured sizes the rate is linear in the logarithm of the size, beyond them
    constant.

    Args:
        device: With a rate for the type.
        dtype: The type.
        flops: FLOPs of the piece's forward pass.
    """
    rates = device.rates[dtype]
    sizes = np.log([rate.gflops * _GIGA for rate in rates])
    return _TERA * float(np.interp(np.log(flops), sizes, [rate.tflops for rate in rates]))


def block_compute(experiment: TrainingExperiment, length: int) -> StageCompute:
    """Return the computing time of one block.

    Args:
        experiment: The training; its device has a rate for its type.
        length: Elements of the block's parameters that are trained.
    """
    flops = _tokens(experiment) * experiment.model.block_flops_per_token(experiment.sequence)
    forward = flops / rate_flops(experiment.topology.device, experiment.dtype, flops)
    visit = _visit_s(experiment)
    return StageCompute(
        forward_s=forward + visit,
        backward_s=_BACKWARD_PASSES * forward + _copy_s(experiment, length) + visit,
        recompute_s=forward if experiment.recompute else 0.0,
    )


def head_compute(experiment: TrainingExperiment, length: int) -> StageCompute:
    """Return the computing time of the head, whose product counts ``2 m s h V``.

    Args:
        experiment: As of ``block_compute``.
        length: Elements of its parameters that are trained.
    """
    model = experiment.model
    flops = 2 * _tokens(experiment) * model.hidden * model.vocabulary
    forward = flops / rate_flops(experiment.topology.device, experiment.dtype, flops)
    backward = _BACKWARD_PASSES * forward + _copy_s(experiment, length)
    return StageCompute(forward + _visit_s(experiment), backward)


def embedding_compute(experiment: TrainingExperiment, length: int) -> StageCompute:
    """Return the time of the embedding: a copy of rows, and the sum of their gradients.

    Args:
        experiment: Any.
        length: Elements of its parameters that are trained.
    """
    item = ITEM_BYTES[experiment.dtype]
    rows = _touching_s(
        experiment, _ITEMS_OF_LOOKUP * _tokens(experiment) * experiment.model.hidden * item
    )
    visit = _visit_s(experiment)
    return StageCompute(rows + visit, rows + _copy_s(experiment, length) + visit)


def optimizer_rate(device: Device) -> float | None:
    """Return the bytes a second of the update; None if nobody has said.

    Args:
        device: The device.
    """
    known = device.optimizer_gb_per_s
    return memory_rate(device) if known is None else known * _GIGA


def update_bytes(elements: int, item: int) -> int:
    """Return the bytes that AdamW reads and writes.

    Args:
        elements: Of the shard.
        item: Bytes of a master weight.
    """
    return _ITEMS_OF_UPDATE * item * elements


def update_s(device: Device, elements: int, item: int) -> float:
    """Return the time of the update of a unit.

    Args:
        device: The device.
        elements: Of the unit's shard.
        item: Bytes of a master weight.

    Raises:
        ValueError: It has no rate of the optimizer.
    """
    rate = optimizer_rate(device)
    if rate is None:
        raise ValueError("no rate of the optimizer; cost_model.machine_faults says so")
    return _MICRO * device.optimizer_us + update_bytes(elements, item) / rate


def num_visits(layers: int) -> int:
    """Return how often the engine visits a stage in a micro-batch: the last one only once.

    Args:
        layers: Blocks, between embedding and head.
    """
    return 2 * (layers + 2) - 1


def _visit_s(experiment: TrainingExperiment) -> float:
    return _MICRO * experiment.topology.device.visit_us


def _tokens(experiment: TrainingExperiment) -> int:
    return experiment.micro_batch * experiment.sequence


def _copy_s(experiment: TrainingExperiment, length: int) -> float:
    """Time to copy a gradient into one vector before it leaves."""
    return _touching_s(experiment, _ITEMS_OF_COPY * length * ITEM_BYTES[experiment.dtype])


def _touching_s(experiment: TrainingExperiment, num_bytes: float) -> float:
    """Time of bytes in the device's memory; 0 where its bandwidth is not known."""
    rate = memory_rate(experiment.topology.device)
    return 0.0 if rate is None else num_bytes / rate
