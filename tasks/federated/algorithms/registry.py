"""From a configuration to the server algorithm that it names."""

from typing import assert_never

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Algorithm,
    Area,
    Ca2fl,
    Fadas,
    FedAsync,
    FedAvg,
    FedBuff,
    FedProx,
    Mifa,
    RescaledAsgd,
    Scaffold,
    Worker,
    WorkerMomentum,
)
from tasks.federated.algorithms.afa_cd import afa_cd
from tasks.federated.algorithms.afa_cs import afa_cs
from tasks.federated.algorithms.area import area
from tasks.federated.algorithms.ca2fl import ca2fl
from tasks.federated.algorithms.fadas import fadas
from tasks.federated.algorithms.fedasync import fedasync
from tasks.federated.algorithms.fedavg import fedavg
from tasks.federated.algorithms.fedbuff import fedbuff
from tasks.federated.algorithms.gradient_weights import with_gradient_weights
from tasks.federated.algorithms.interface import ServerAlgorithm
from tasks.federated.algorithms.memory_ages import with_ages
from tasks.federated.algorithms.mifa import mifa
from tasks.federated.algorithms.rescaled_asgd import rescaled_asgd
from tasks.federated.algorithms.scaffold import with_control


def build(algorithm_config: Algorithm, num_workers: int, worker_config: Worker) -> ServerAlgorithm:
    """Make the server algorithm of an experiment.

    Args:
        algorithm_config: Which one, with its settings.
        num_workers: M, at least 1.
        worker_config: The worker side; SCAFFOLD adds the server's control variate, momentum and
            FedProx say what normalised returns are divided by.

    Returns:
        The algorithm.
    """
    algorithm = _build(algorithm_config, num_workers)
    if algorithm_config.is_normalised and isinstance(worker_config, (WorkerMomentum, FedProx)):
        algorithm = with_gradient_weights(algorithm, worker_config)
    if algorithm_config.has_worker_memory:
        algorithm = with_ages(algorithm, num_workers)
    if isinstance(worker_config, Scaffold):
        return with_control(algorithm, num_workers)
    return algorithm


def _build(config: Algorithm, num_workers: int) -> ServerAlgorithm:
    match config:
        case AfaCd():
            return afa_cd(config)
        case AfaCs():
            return afa_cs(config, num_workers)
        case FedAvg():
            return fedavg(config)
        case FedAsync():
            return fedasync(config)
        case FedBuff():
            return fedbuff(config)
        case Fadas():
            return fadas(config)
        case Mifa():
            return mifa(config, num_workers)
        case Ca2fl():
            return ca2fl(config, num_workers)
        case Area():
            return area(config, num_workers)
        case RescaledAsgd():
            return rescaled_asgd(config, num_workers)
        case _:
            assert_never(config)
