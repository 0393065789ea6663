"""AREA: the global model follows the mean of all local models, as reconstructed.

Iakovidou and Kim, "Asynchronous Federated Stochastic Optimization for Heterogeneous Objectives
Under Arbitrary Delays", 2024, arXiv:2405.10123.

A worker sends how much its local model has moved since its last return, and the server adds

    x_{t+1} = x_t + (1/M) * sum_{i in S_t} (y_i - y_i^previous),    y_i = x_mu + (x_K - x_mu)

with y_i^previous = x_0 at first. By induction x_t = (1/M) * sum_{i=1..M} y_i, over the latest local
models of all workers, and that is how it is computed here:

    x_{t+1} = x_t + eta * ((1/M) * sum_{i=1..M} y_i - x_t)

With eta = ``server_lr`` = 1 and SGD, the defaults, this is the published update in exact
arithmetic. The source has no server-side rate. Multiplying the published increments by eta would
give x_t = x_0 + eta * (mean y_i - x_0), whose fixed point depends on x_0 and is wrong for all eta
but 1; in this form the fixed point mean y_i = x is right for any server-side optimiser, and
rounding errors do not pile up in x.

The previous local models are the workers' memory in reality (the server keeps nothing). Here they
stand beside the server's state, because the simulator plays both sides; they are kept as y_i - x_0,
which is zero for a worker that has not returned. Of a worker that is twice in the buffer, the
newest local model counts: its increments telescope.

Memory: ``worker_memory``'s, M x P, with y_i - x_0 in the slots; ``initial_model``: x_0, shape (P,).
"""

from torch import Tensor

from configs.algorithms import Area
from tasks.federated.algorithms import worker_memory
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def area(config: Area, num_workers: int) -> ServerAlgorithm:
    """Make AREA.

    Args:
        config: Rate (1 as published) and server-side optimiser (SGD as published).
        num_workers: M.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        memory = worker_memory.empty_memory(model, num_workers)
        return ServerState(
            model, memory=memory | {"initial_model": model.clone()} | server.init(model)
        )

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        initial = state.memory["initial_model"]
        moved = (returns.start - initial) + returns.change
        worker_memory.remember(state.memory, returns.worker, moved)
        mean_moved = worker_memory.mean_of_all(state.memory)
        return server.step(state, mean_moved - (state.model - initial), returns)

    return ServerAlgorithm(init, aggregate)
