"""SCAFFOLD's server-side control variate, around any server algorithm.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
arXiv:1910.06378.

    c <- c + (1/M) * sum_{i in S_t} (c_i^new - c_i)

so that c stays the mean of all workers' c_i. How c and c_i correct local steps, and the c_i
themselves, are the worker side's. Of two returns of one worker in a buffer only the newest changes
its c_i; the other comes with zeros.

Memory: ``control``: c, shape (P,), beside the wrapped algorithm's. Each update makes a new tensor,
so that workers under way can hold the c that they pulled.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState


def with_control(inner: ServerAlgorithm, num_workers: int) -> ServerAlgorithm:
    """Let a server algorithm keep SCAFFOLD's control variate too.

    Args:
        inner: The algorithm that moves the model.
        num_workers: M.

    Returns:
        The algorithm; its ``aggregate`` raises ValueError when returns have no control changes.
    """

    def init(model: Tensor) -> ServerState:
        state = inner.init(model)
        return replace(state, memory=state.memory | {"control": torch.zeros_like(model)})

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        if returns.control is None:
            raise ValueError(
                "the returns have no control changes, which SCAFFOLD's server needs; train with "
                "worker.optimizer: scaffold"
            )
        control = state.memory["control"] + returns.control.sum(dim=0) / num_workers
        following = inner.aggregate(state, returns)
        return replace(following, memory=following.memory | {"control": control})

    return ServerAlgorithm(init, aggregate)
