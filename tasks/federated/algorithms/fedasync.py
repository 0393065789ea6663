"""FedAsync: each returned model is mixed into the global one, as reconstructed.

Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934.

    x <- (1 - alpha_t) x + alpha_t x_K,    alpha_t = alpha * s(delay)

with alpha = ``server_lr`` and x_K = x_mu + K * delta the whole local model. The damping s is one of

    constant:    1
    polynomial:  (1 + delay)^-a
    hinge:       1 if delay <= b, else 1 / (1 + a * (delay - b))

The source updates on every return (m = 1). A longer buffer is applied row by row in order of
arrival, which matters: the last one mixed in weighs most. The mixture is x += alpha * d with
d = s(delay) * (x_K - x), so a server-side optimiser other than SGD is applied to d.

Memory: none of its own.
"""

from torch import Tensor

from configs.algorithms import FedAsync
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def fedasync(config: FedAsync) -> ServerAlgorithm:
    """Make FedAsync.

    Args:
        config: alpha, the form of the damping with its numbers, and the server-side optimiser.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        return ServerState(model, memory=server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        model, memory = state.model, state.memory
        local_models = returns.start + returns.change
        for local_model, delay in zip(local_models, returns.delay.tolist(), strict=True):
            direction = config.damping(delay) * (local_model - model)
            model, changed = server.apply(model, direction, delay, memory)
            memory = memory | changed
        return ServerState(model, state.version + 1, memory)

    return ServerAlgorithm(init, aggregate)
