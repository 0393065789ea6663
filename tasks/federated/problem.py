"""What is trained: the model, its data, who holds them, and where it begins."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.federated import FederatedExperiment
from configs.models import Quadratic
from configs.sizes import in_flight_bytes, least_in_flight_bytes, server_memory_bytes
from models.datasets import Dataset, load
from models.errors import DataError
from models.interface import Model
from models.partition import Shards, partition, single_samples
from models.registry import build as build_model
from tasks.federated.randomness import Stream, generator
from tasks.runtime.errors import JobError, Reason
from tasks.runtime.output import say


@dataclass(frozen=True)
class Problem:
    """A federated problem, the same in every process that is given the same experiment.

    Attributes:
        model: The model.
        dataset: Its data, on the model's device.
        shards: Which samples each worker holds.
        initial: The initial model, shape (P,).
    """

    model: Model
    dataset: Dataset
    shards: Shards
    initial: Tensor


def build_problem(experiment: FederatedExperiment) -> Problem:
    """Load the data, divide them, and draw the initial model.

    Args:
        experiment: A validated experiment.

    Returns:
        The problem.

    Raises:
        JobError: The data cannot be had or divided, or the device is absent.
    """
    device = _device(experiment)
    dtype = getattr(torch, experiment.dtype)
    try:
        dataset, shards = _divided_data(experiment)
    except DataError as error:
        raise JobError(Reason.DATA, str(error)) from error
    dataset = dataset.to(dtype, device)
    model = build_model(experiment.model, dataset, dtype=dtype, device=device)
    seeds = generator(experiment.seed, Stream.INITIAL_MODEL)
    initial = model.initial(torch.Generator().manual_seed(int(seeds.integers(2**62)))).to(device)
    return Problem(model, dataset, shards, initial)


def check_memory(experiment: FederatedExperiment, problem: Problem) -> tuple[str, ...]:
    """Say what a server keeps of its workers and of models in flight, and check that it fits.

    Args:
        experiment: A validated experiment.
        problem: Its problem.

    Returns:
        What the user should know: that it may not fit.

    Raises:
        JobError: The machine has less memory than is certain to be needed.
    """
    parameters = problem.model.num_parameters
    kept = server_memory_bytes(experiment, parameters)
    most = in_flight_bytes(experiment, parameters)
    device = problem.initial.device
    if device.type == "cuda":
        has = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    say(f"keeps {kept:,} bytes of its workers, and at most {most:,} of models in flight")
    return memory_doubts(experiment, parameters, has)


def memory_doubts(
    experiment: FederatedExperiment, parameters: int, has_bytes: int
) -> tuple[str, ...]:
    """Compare what a server keeps with the memory that there is.

    Args:
        experiment: A validated experiment.
        parameters: P.
        has_bytes: Memory of its device.

    Returns:
        That it may not fit; empty if it will.

    Raises:
        JobError: It will not fit.
    """
    kept = server_memory_bytes(experiment, parameters)
    least = least_in_flight_bytes(experiment, parameters)
    most = in_flight_bytes(experiment, parameters)
    has = f"the {experiment.device} has {_gib(has_bytes)}"
    if kept > has_bytes:
        raise JobError(
            Reason.MEMORY,
            f"{experiment.algorithm.name} with {experiment.workers} workers keeps {_gib(kept)}, "
            f"{has}; use fewer workers, a smaller model, or an algorithm without memory (afa_cd)",
        )
    remedy = "use a larger algorithm.collect, a smaller arrivals.max_delay, or fewer workers"
    if kept + least > has_bytes:
        raise JobError(
            Reason.MEMORY,
            f"models in flight take {_gib(least)} or more, what is kept of the workers "
            f"{_gib(kept)} besides, {has}; {remedy}",
        )
    if kept + most > has_bytes:
        return (
            f"models in flight may take up to {_gib(most)}, what is kept of the workers "
            f"{_gib(kept)} besides, and {has}: the run may be killed; {remedy}",
        )
    return ()


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _divided_data(experiment: FederatedExperiment) -> tuple[Dataset, Shards]:
    if isinstance(experiment.model, Quadratic):
        return load(experiment.model), single_samples(experiment.workers)
    if experiment.data is None:
        raise AssertionError("validated: only the quadratic model has no data")
    dataset = load(experiment.data)
    shards = partition(
        dataset.labels,
        dataset.owners,
        experiment.data.partition,
        workers=experiment.workers,
        seed=experiment.data.seed,
    )
    return dataset, shards


def _device(experiment: FederatedExperiment) -> torch.device:
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise JobError(Reason.DEVICE, "device: cuda, but this machine has no CUDA device; use cpu")
    return torch.device(experiment.device)
