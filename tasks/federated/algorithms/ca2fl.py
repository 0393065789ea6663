"""CA2FL: cached update calibration (SAGA to the SAG of AFA-CS and MIFA), as reconstructed.

Wang et al., "Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached Update
Calibration", ICLR 2024.

    v_t = h_bar + (1/m) * sum_{i in S_t} (Delta_i - h_i),    h_bar = (1/M) * sum_{i=1..M} h_i
    x_{t+1} = x_t + eta * v_t;    then h_i <- Delta_i for i in S_t

Delta_i = x_K - x_mu is the whole local change. h_bar and every h_i in v_t are those of before the
update; caches start at zero. Each return of a worker that is twice in the buffer is calibrated by
the same cache of before the update (m counts both, so that v_t stays unbiased when workers are
drawn with replacement); the newest stays in the cache.

Memory: ``worker_memory``'s, M x P.
"""

from torch import Tensor

from configs.algorithms import Ca2fl
from tasks.federated.algorithms import worker_memory
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def ca2fl(config: Ca2fl, num_workers: int) -> ServerAlgorithm:
    """Make CA2FL.

    Args:
        config: Rate and server-side optimiser.
        num_workers: M.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        memory = worker_memory.empty_memory(model, num_workers)
        return ServerState(model, memory=memory | server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        change = returns.change
        calibration = change - worker_memory.latest(state.memory, returns.worker)
        direction = worker_memory.mean_of_all(state.memory) + calibration.mean(dim=0)
        worker_memory.remember(state.memory, returns.worker, change)
        return server.step(state, direction, returns)

    return ServerAlgorithm(init, aggregate)
