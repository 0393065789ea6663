"""FedAvg with two-sided learning rates.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS
2017, arXiv:1602.05629; two-sided: Yang, Fang and Liu, "Achieving Linear Speedup with Partial Worker
Participation in Non-IID Federated Learning", ICLR 2021, arXiv:2101.11203.

    x_{t+1} = x_t + eta * (1/m) * sum_{i in S_t} (x_K - x_mu)_i

The whole local changes are averaged, not divided by the number of local steps. The mean is plain,
where the first source weighs by the workers' numbers of samples: the objective here is the plain
mean of the workers' losses. FedAvg is synchronous by its arrival process (all delays 0), not here.

Memory: none of its own.
"""

from torch import Tensor

from configs.algorithms import FedAvg
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def fedavg(config: FedAvg) -> ServerAlgorithm:
    """Make FedAvg.

    Args:
        config: Rate and server-side optimiser.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        return ServerState(model, memory=server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        return server.step(state, returns.change.mean(dim=0), returns)

    return ServerAlgorithm(init, aggregate)
