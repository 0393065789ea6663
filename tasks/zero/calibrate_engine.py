"""What the engine itself costs: micro-batches of a small training, less what the model prices.

The model prices products, copies and transfers. What Python and the lanes do for each stage that is
visited, the loss, and what they do for each collective, are left: where ranks outnumber the cores,
and where pieces are small, that counts.
"""

import statistics
from dataclasses import dataclass

import torch

from configs.topology import Dtype, Topology
from configs.training import TrainingExperiment
from tasks.zero.calibrate_times import Clock
from tasks.zero.cost_model import predict, step_costs
from tasks.zero.costs.computing import num_visits
from tasks.zero.costs.timeline import device_s
from tasks.zero.engines import build_engine
from tasks.zero.interface import TrainEngine

_LAYERS = 2
_FEW, _MANY = 2, 18
"""Micro-batches of the two train steps whose difference is taken, so that what is done once a step
does not count."""
_FEWEST_TURNS, _MOST_TURNS = 3, 20
_LR = 1e-4


@dataclass(frozen=True)
class EngineTimes:
    """What the engine costs beside what the model prices.

    Attributes:
        visit_s: Each visit of a stage.
        collective_s: Each collective of a unit; 0 where there is a single rank.
    """

    visit_s: float
    collective_s: float


def engine_times(
    topology: Topology,
    device: torch.device,
    clock: Clock,
    *,
    ranks: int,
    dtype: Dtype,
    width: int,
    tokens: int,
    timeout_s: int,
) -> EngineTimes:
    """Measure the engine; all ranks call this.

    All of them train together: data-parallel, sending nothing meanwhile, and with all states split
    over the innermost level, in turns.

    Args:
        topology: With the links and rates that were measured, and no time of the engine.
        device: Of this rank.
        clock: Times.
        ranks: All of them.
        dtype: Of the blocks.
        width: h, one of those whose rate was measured.
        tokens: Of a micro-batch, one sequence.
        timeout_s: After which a rank is taken for lost.

    Returns:
        Each at least 0, on all ranks the same.
    """

    def training(degree: int, accumulation: int = 1) -> TrainingExperiment:
        states = ("forward", "backward", "gradients", "optimizer")
        return TrainingExperiment.model_validate(
            {
                "kind": "training",
                "model": {"layers": _LAYERS, "hidden": width, "heads": max(1, width // 64)},
                "sequence": tokens,
                "ranks": ranks,
                "topology": topology.model_dump(),
                "partition": dict.fromkeys(states, degree),
                "accumulation": accumulation,
                "dtype": dtype,
                "device": device.type,
                "timeout_s": timeout_s,
            }
        )

    inside = min(topology.levels[0].ranks, ranks)
    degrees = sorted({1, inside})
    engines = [build_engine(training(degree), device) for degree in degrees]
    measured = _micro_batches_s(engines, clock, tokens)
    for engine in engines:  # not after an error, see ``training.train``
        engine.close()
    priced_s = sum(stage.forward_s + stage.backward_s for stage in step_costs(training(1)).stages)
    visit_s = max(0.0, measured[0] - priced_s) / num_visits(_LAYERS)
    if inside == 1:
        return EngineTimes(visit_s, 0.0)
    # Products and visits are in both trainings: however they are priced, they do not count.
    few, many = (
        device_s(step_costs(one), one.accumulation) if clock.is_crowded else predict(one).step_s
        for one in (training(inside, number) for number in (_FEW, _MANY))
    )
    moved_s = (many - few) / (_MANY - _FEW) - priced_s
    stages = _LAYERS + 2
    collectives = num_visits(_LAYERS) + stages  # a gather for each visit, a reduction for each unit
    left_s = measured[1] - measured[0] - moved_s
    return EngineTimes(visit_s, max(0.0, left_s) / collectives)


def _micro_batches_s(engines: list[TrainEngine], clock: Clock, tokens: int) -> list[float]:
    """Return what the passes of a micro-batch more take, with each engine, in turns."""
    micro_batch = torch.zeros((1, tokens + 1), dtype=torch.int64)

    def passes_s(engine: TrainEngine, number: int) -> float:
        return clock.own_s(lambda: engine.train_step([micro_batch] * number, _LR))

    def more_s(engine: TrainEngine) -> float:
        return (passes_s(engine, _MANY) - passes_s(engine, _FEW)) / (_MANY - _FEW)

    longest_s = max(passes_s(engine, _FEW) for engine in engines for _ in range(2))
    turns = round(clock.least_s / clock.agreed(longest_s, largest=True))
    found = [
        [more_s(engine) for engine in engines]
        for _ in range(max(_FEWEST_TURNS, min(_MOST_TURNS, turns)))
    ]
    return [
        clock.agreed(statistics.median(some), largest=not clock.is_crowded)
        for some in zip(*found, strict=True)
    ]
