"""AFA-CS: anarchic federated averaging, cross-silo, as reconstructed.

Yang, Zhang, Khanduri and Liu, "Anarchic Federated Learning", ICML 2022, arXiv:2108.09875.

The server remembers the latest return of all M workers; those in the buffer overwrite theirs:

    H_i <- delta_i for i in S_t;    x_{t+1} = x_t + eta * (1/M) * sum_{i=1..M} H_i

with delta_i = (x_K - x_mu) / K_i as in AFA-CD. Every worker weighs the same however often it
returns, which is what removes AFA-CD's bias. Of a worker that is twice in the buffer, the newest
return overwrites. What slots hold before a worker's first return is not known of the source and is
a setting (see ``worker_memory.mean_of_latest``).

Memory: ``worker_memory``'s, M x P.
"""

from torch import Tensor

from configs.algorithms import AfaCs
from tasks.federated.algorithms import worker_memory
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def afa_cs(config: AfaCs, num_workers: int) -> ServerAlgorithm:
    """Make AFA-CS.

    Args:
        config: Rate, server-side optimiser, slot initialisation, and whether returns are divided
            by their number of local steps.
        num_workers: M.

    Returns:
        The algorithm. While it waits for all workers, versions count but the model stays.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        memory = worker_memory.empty_memory(model, num_workers)
        return ServerState(model, memory=memory | server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        rows = returns.delta if config.normalise else returns.change
        worker_memory.remember(state.memory, returns.worker, rows)
        direction = worker_memory.mean_of_latest(state.memory, config.slots)
        if direction is None:
            return ServerState(state.model, state.version + 1, state.memory)
        return server.step(state, direction, returns)

    return ServerAlgorithm(init, aggregate)
