"""AFA-CD: anarchic federated averaging, cross-device, as reconstructed.

Yang, Zhang, Khanduri and Liu, "Anarchic Federated Learning", ICML 2022, arXiv:2108.09875.

Of the returns as they come, S_t with |S_t| = m:

    x_{t+1} = x_t + eta * (1/m) * sum_{i in S_t} delta_i,    delta_i = (x_K - x_mu) / K_i

As delta_i = -eta_L * G_i, with G_i the worker's mean stochastic gradient, the effective step on G_i
is a = eta * eta_L; FedAvg's whole changes with server rate eta_g are this with eta = K * eta_g.
There is no damping of stale returns. A worker that is twice in the buffer counts twice: S_t is a
set of returns, not of workers. How the server-side optimiser enters is the meta-algorithm's
freedom; SGD is the formula above. With momentum or FedProx at the workers not all gradients of a
return count alike, and K_i is the sum of their weights (``gradient_weights``).

Memory: none of its own.
"""

from torch import Tensor

from configs.algorithms import AfaCd
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def afa_cd(config: AfaCd) -> ServerAlgorithm:
    """Make AFA-CD.

    Args:
        config: Rates, server-side optimiser, and whether returns are divided by their number of
            local steps; without, a worker's pull grows with its steps (kept for comparison).

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        return ServerState(model, memory=server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        rows = returns.delta if config.normalise else returns.change
        return server.step(state, rows.mean(dim=0), returns)

    return ServerAlgorithm(init, aggregate)
