"""What the engine itself costs: micro-batches of a small training, less what the model prices.

The model prices products, copies and transfers. What Python and the lanes do for each stage that is
visited, and the loss, are left: where ranks outnumber the cores, and where pieces are small, that
counts.
"""

import statistics

import torch

from configs.topology import Dtype, Topology
from configs.training import TrainingExperiment
from tasks.zero.calibrate_times import Clock
from tasks.zero.cost_model import step_costs
from tasks.zero.costs.computing import num_visits
from tasks.zero.engines import build_engine

_LAYERS = 2
_FEW, _MANY = 2, 18
"""Micro-batches of the two train steps whose difference is taken, so that what is done once a step
does not count."""
_FEWEST_TURNS, _MOST_TURNS = 3, 20
_LR = 1e-4


def visit_s(
    topology: Topology,
    device: torch.device,
    clock: Clock,
    *,
    ranks: int,
    dtype: Dtype,
    width: int,
    tokens: int,
) -> float:
    """Return what a visit of a stage costs beside its products and copies; all ranks call this.

    Args:
        topology: With the rates that were measured, and ``visit_us`` 0.
        device: Of this rank.
        clock: Times.
        ranks: All of them: they train together, data-parallel, and send nothing meanwhile.
        dtype: Of the blocks.
        width: h, one of those whose rate was measured.
        tokens: Of a micro-batch, one sequence.

    Returns:
        Seconds, at least 0: the mean over the ranks, on all of them the same.
    """
    experiment = TrainingExperiment.model_validate(
        {
            "kind": "training",
            "model": {"layers": _LAYERS, "hidden": width, "heads": max(1, width // 64)},
            "sequence": tokens,
            "ranks": ranks,
            "topology": topology.model_dump(),
            "partition": "ddp",
            "dtype": dtype,
            "device": device.type,
        }
    )
    priced_s = sum(stage.forward_s + stage.backward_s for stage in step_costs(experiment).stages)
    tokens_of_one = torch.zeros((1, tokens + 1), dtype=torch.int64)
    engine = build_engine(experiment, device)
    try:

        def passes_s(num_micro_batches: int) -> float:
            """Time of the passes of a train step, without waiting for others."""
            return engine.train_step([tokens_of_one] * num_micro_batches, _LR).compute_s

        longest_s = clock.agreed(max(passes_s(_FEW) for _ in range(2)), largest=True)
        turns = round(clock.least_s / longest_s)
        found = [
            (passes_s(_MANY) - passes_s(_FEW)) / (_MANY - _FEW)
            for _ in range(max(_FEWEST_TURNS, min(_MOST_TURNS, turns)))
        ]
    finally:
        engine.close()
    left_s = clock.agreed(statistics.median(found)) - priced_s
    return max(0.0, left_s) / num_visits(_LAYERS)
