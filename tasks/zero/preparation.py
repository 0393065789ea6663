"""What a rank sets up before the first train step: its device, its text; and what is trained."""

from pathlib import Path

import torch

from configs.training import TrainingExperiment
from configs.training_checks import too_few_gpus
from models.errors import DataError
from models.tokens import Batches, TokenFile, check_vocabulary, default_cache_dir, pack
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.output import say
from tasks.zero.identity import Identity


def device_of(experiment: TrainingExperiment, identity: Identity) -> torch.device:
    """Choose what a rank computes with, and make it the rank's own.

    Args:
        experiment: Says whether CPU or GPU.
        identity: Of the rank.

    Returns:
        The CPU, or the GPU of the rank's number on its node, or on this machine if one process has
        started all ranks.

    Raises:
        JobError: A GPU is wanted, and there are fewer than ranks.
    """
    num_gpus = torch.cuda.device_count()
    if experiment.device == "cpu" or (experiment.device == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if identity.num_local is not None and num_gpus < identity.num_local:
        raise JobError(Reason.DEVICE, too_few_gpus(num_gpus, identity.num_local))
    # Where each task of srun sees a GPU of its own alone, that is number 0.
    sees_its_own = identity.num_local is None and num_gpus == 1
    per_node = experiment.topology.node_ranks(experiment.ranks)
    if not sees_its_own and num_gpus < per_node:
        message = f"{num_gpus} GPUs are seen on node {identity.node}, for {per_node} ranks; "
        raise JobError(Reason.DEVICE, f"{message}ask Slurm for more, or set device: cpu")
    number = 0 if sees_its_own else identity.local_rank
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def pack_tokens(experiment: TrainingExperiment) -> Path:
    """Make the token file of a training's text, if it is not there yet.

    Args:
        experiment: The training.

    Returns:
        Its path.

    Raises:
        JobError: The text cannot be had or packed.
    """
    try:
        return pack(experiment.data, default_cache_dir())
    except DataError as error:
        raise JobError(Reason.DATA, str(error)) from error


def open_batches(experiment: TrainingExperiment) -> tuple[Batches, str]:
    """Return what a training learns from, and the fingerprint of its tokens.

    Args:
        experiment: The training.

    Raises:
        JobError: The tokens do not fit the model, or are too few.
    """
    path = pack_tokens(experiment)
    try:
        file = TokenFile.open(path)
        check_vocabulary(file, experiment.model)
        batches = Batches(
            file,
            sequence=experiment.sequence,
            sequences_per_step=experiment.sequences_per_step,
            seed=experiment.seed,
            validation_fraction=experiment.data.validation_fraction,
        )
    except DataError as error:
        raise JobError(Reason.DATA, str(error)) from error
    return batches, file.fingerprint


def describe(experiment: TrainingExperiment) -> None:
    """Say what is trained, for people.

    Args:
        experiment: The training.
    """
    gpt, degrees = experiment.model, experiment.degrees
    say(
        f"{gpt.preset or 'gpt'}: {gpt.num_parameters:,} parameters, {gpt.layers} layers of width "
        f"{gpt.hidden}, {gpt.heads} heads, {experiment.dtype}"
    )
    say(
        f"partition {experiment.partition_name}: forward {degrees.forward}, backward "
        f"{degrees.backward}, gradients {degrees.gradients}, optimizer {degrees.optimizer}; "
        f"engine {experiment.engine}"
    )
    per_node = experiment.topology.node_ranks(experiment.ranks)
    say(
        f"{experiment.ranks} ranks, {per_node} a node ({experiment.topology.name}); "
        f"{experiment.tokens_per_step:,} tokens of {experiment.data.name} in each of "
        f"{experiment.steps:,} train steps"
    )
