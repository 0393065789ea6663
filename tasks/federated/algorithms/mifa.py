"""MIFA: the mean of every worker's latest change, as reconstructed.

Gu et al., "Fast Federated Learning in the Presence of Arbitrary Device Unavailability", NeurIPS
2021, arXiv:2106.04159.

    H_i <- (x_K - x_mu)_i for i in S_t;    x_{t+1} = x_t + eta * (1/M) * sum_{i=1..M} H_i

Absent workers thus still count. This is AFA-CS with whole changes. The source works in synchronous
rounds (delays 0) and remembers changes divided by the round's learning rate; here worker-side rates
are constant, so remembering the changes themselves is the same with eta = 1.

Memory: ``worker_memory``'s, M x P.
"""

from torch import Tensor

from configs.algorithms import Mifa
from tasks.federated.algorithms import worker_memory
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def mifa(config: Mifa, num_workers: int) -> ServerAlgorithm:
    """Make MIFA.

    Args:
        config: Rate, server-side optimiser and slot initialisation.
        num_workers: M.

    Returns:
        The algorithm. While it waits for all workers, versions count but the model stays.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        memory = worker_memory.empty_memory(model, num_workers)
        return ServerState(model, memory=memory | server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        worker_memory.remember(state.memory, returns.worker, returns.change)
        direction = worker_memory.mean_of_latest(state.memory, config.slots)
        if direction is None:
            return ServerState(state.model, state.version + 1, state.memory)
        return server.step(state, direction, returns)

    return ServerAlgorithm(init, aggregate)
