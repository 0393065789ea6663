"""What a device computes in a train step, by way through the batch: as columns for many candidates.

Computing times are those of the cost model; what depends on the length of a unit (the copy of its
gradient, its update) is by element.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.training import TrainingExperiment
from configs.training_memory import ITEM_BYTES
from tasks.zero.costs.computing import (
    StageCompute,
    block_compute,
    embedding_compute,
    head_compute,
    update_s,
)
from tasks.zero.planning.prices import NUM_ENDS
from tasks.zero.planning.space import Floats, Ints, Passes, passing

_MANY = 10**9


@dataclass(frozen=True)
class Work:
    """Computing times by way through the batch.

    Attributes:
        forward: Of one micro-batch, shape (passes, units), s.
        backward: Without the copy of gradients, shape (passes, units), s.
        recompute: Of a block, shape (passes,), s.
        copy: Of a gradient, s an element.
        update: Of the optimizer, s an element of the shard.
        update_fixed: Of the optimizer, s a unit besides.
        micro_batches: Shape (passes,).
        prefetch: Shape (passes,).
    """

    forward: Floats
    backward: Floats
    recompute: Floats
    copy: float
    update: float
    update_fixed: float
    micro_batches: Ints
    prefetch: Ints


def work_of(base: TrainingExperiment, passes: Sequence[Passes]) -> Work:
    """Return the computing times of a search.

    Args:
        base: The training.
        passes: Ways through the batch.
    """
    stages = [_stages(passing(base, one)) for one in passes]
    exact = max(4, ITEM_BYTES[base.dtype])
    copied = block_compute(base, _MANY).backward_s - block_compute(base, 0).backward_s
    fixed, many = (update_s(base.topology.device, length, exact) for length in (0, _MANY))
    return Work(
        forward=np.array([[stage.forward_s for stage in three] for three in stages]),
        backward=np.array([[stage.backward_s for stage in three] for three in stages]),
        recompute=np.array([three[1].recompute_s for three in stages]),
        copy=copied / _MANY,
        update=(many - fixed) / _MANY,
        update_fixed=fixed,
        micro_batches=np.array([one.accumulation for one in passes]),
        prefetch=np.array([one.prefetch for one in passes]),
    )


def _stages(experiment: TrainingExperiment) -> list[StageCompute]:
    stages = [
        embedding_compute(experiment, 0),
        block_compute(experiment, 0),
        head_compute(experiment, 0),
    ]
    assert len(stages) == NUM_ENDS  # noqa: S101  ours
    return stages
