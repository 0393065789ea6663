"""FedBuff: asynchronous returns are buffered, damped and averaged, as reconstructed.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
arXiv:2106.06639.

    x_{t+1} = x_t + eta * (1/m) * sum_{i in S_t} w_i (x_K - x_mu)_i,    w_i = 1 / sqrt(1 + delay_i)

The sum is divided by m, not by the sum of the weights: a stale buffer makes a smaller step. Without
damping, w_i = 1.

Memory: none of its own.
"""

from torch import Tensor

from configs.algorithms import FedBuff
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def fedbuff(config: FedBuff) -> ServerAlgorithm:
    """Make FedBuff.

    Args:
        config: Rate, server-side optimiser, and whether stale returns are damped.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        return ServerState(model, memory=server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        change = returns.change
        if config.damp_stale:
            change = change * (1 + returns.delay).to(change.dtype).rsqrt()[:, None]
        return server.step(state, change.mean(dim=0), returns)

    return ServerAlgorithm(init, aggregate)
