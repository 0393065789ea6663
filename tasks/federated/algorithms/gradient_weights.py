"""What a return is divided by where its gradients do not count alike, around any algorithm.

Wang, Liu, Liang, Joshi and Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization" (FedNova), NeurIPS 2020, arXiv:2007.07481.

The local optimisers are linear in the gradients g_j of their steps (noise and clipping included):

    x_K - x_mu = -eta_L * sum_j a_j g_j

With SGD and SCAFFOLD all a_j are 1, and K is their sum. With momentum and with a proximal term they
are not: divided by K, a worker's pull would still grow (momentum) or fall (FedProx) with its number
of steps. Divided by sum_j |a_j| it is an average of gradients for every K; the formulas are in
``configs.algorithms``.

Memory: the wrapped algorithm's.
"""

from dataclasses import replace

import torch

from configs.algorithms import Worker
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState


def with_gradient_weights(inner: ServerAlgorithm, worker: Worker) -> ServerAlgorithm:
    """Let an algorithm that divides returns by K divide them by the weight of their gradients.

    Args:
        inner: An algorithm that uses ``Returns.delta``, and not ``Returns.change``.
        worker: The worker side.

    Returns:
        The algorithm.
    """

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        steps = returns.num_steps.tolist()
        ratios = [num_steps / worker.gradient_weight(num_steps) for num_steps in steps]
        scales = torch.tensor(ratios, dtype=returns.delta.dtype, device=returns.delta.device)
        return inner.aggregate(state, replace(returns, delta=returns.delta * scales[:, None]))

    return ServerAlgorithm(inner.init, aggregate)
