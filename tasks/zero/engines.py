"""Which engine trains an experiment."""

import torch

from configs.training import TrainingExperiment
from models.gpt import GptStages, build_gpt
from tasks.zero.engine import Engine
from tasks.zero.interface import TrainEngine


def build_engine(
    experiment: TrainingExperiment, device: torch.device, *, is_continued: bool = False
) -> TrainEngine:
    """Make the engine that an experiment names, with the initial weights of its seed.

    The default process group is to be there; all ranks call this together.

    Args:
        experiment: The experiment.
        device: Where this rank computes.
        is_continued: Whether a checkpoint is loaded next: what it brings need not be drawn.

    Returns:
        The engine; to be closed.

    Raises:
        JobError: The engine cannot do what is asked on this device.
    """
    if experiment.engine == "ours":
        with torch.device("meta"):
            model = GptStages(experiment.model, experiment.sequence)
        return Engine(experiment, model, device, is_continued=is_continued)
    # Each takes seconds to import, and memory on every rank.
    if experiment.engine == "fsdp2":
        from tasks.zero.adapters.fsdp2_engine import Fsdp2Engine  # noqa: PLC0415

        return Fsdp2Engine(experiment, whole_model(experiment), device)
    from tasks.zero.adapters.deepspeed_engine import DeepSpeedEngine  # noqa: PLC0415

    return DeepSpeedEngine(experiment, whole_model(experiment), device)


def whole_model(experiment: TrainingExperiment) -> GptStages:
    """Return the model of an experiment with all its initial weights, on the CPU.

    Args:
        experiment: The experiment.
    """
    return build_gpt(experiment.model, experiment.sequence, experiment.seed)
