"""The units of a GPT without torch: lengths as the engine has them, and how often each moves."""

from dataclasses import dataclass

from configs.gpt import Gpt, is_frozen
from configs.training import TrainingExperiment
from configs.training_memory import item_sizes
from configs.transport import BITS
from tasks.zero.layout import padded
from tasks.zero.traffic import ElementBytes, UnitSize


@dataclass(frozen=True)
class StageUnit:
    """A unit of a stage, as far as its costs go.

    Attributes:
        stage: Its number: 0 the embedding, then the blocks, last the head.
        length: Elements, with padding.
        is_trainable: Whether it has gradients and an optimizer.
        is_shared: Whether the last stage uses it too: the embedding of a tied head.
    """

    stage: int
    length: int
    is_trainable: bool
    is_shared: bool = False


def stage_units(experiment: TrainingExperiment) -> list[StageUnit]:
    """List the units of a training, stage by stage, those that are trained first.

    Args:
        experiment: The training.
    """
    model, transport = experiment.model, experiment.transport
    quantizes = BITS.keys() & set(transport.model_dump().values())
    block_size = transport.block_size if quantizes else 1
    degree = max(experiment.degrees.degrees, default=1)
    frozen = experiment.frozen
    plain = [_trained_and_frozen(model, stage, frozen) for stage in range(model.layers + 2)]
    return [
        StageUnit(
            stage,
            padded(length, degree=degree, block_size=block_size),
            is_trainable,
            is_shared=model.tied and stage == 0,
        )
        for stage, lengths in enumerate(plain)
        for length, is_trainable in zip(lengths, (True, False), strict=True)
        if length
    ]


def unit_sizes(experiment: TrainingExperiment) -> list[UnitSize]:
    """List the units as the traffic model wants them.

    Args:
        experiment: The training.
    """
    last = experiment.model.layers + 1
    return [
        UnitSize(
            unit.length,
            is_trainable=unit.is_trainable,
            # A tied head gathers the embedding again, from what the first gather has kept.
            backward_gathers=2 if unit.is_shared else int(unit.stage < last),
        )
        for unit in stage_units(experiment)
    ]


def element_bytes(experiment: TrainingExperiment) -> ElementBytes:
    """Return the bytes of an element: those of ``configs.training_memory``, by what moves.

    Args:
        experiment: The training.
    """
    sizes = item_sizes(experiment)
    return ElementBytes(sizes.weights, sizes.gradients, sizes.master + sizes.moments)


def _trained_and_frozen(model: Gpt, stage: int, frozen: tuple[str, ...]) -> tuple[int, int]:
    """Return the elements of a stage that are trained, and those that are not."""
    total = {True: 0, False: 0}
    for name, size in model.stage_parameters(stage).items():
        total[not is_frozen(name, frozen)] += size
    return total[True], total[False]
