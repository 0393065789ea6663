"""How old the returns are that a server remembers: one number a worker, around any memory.

What the delay of a buffer does not show: a return that was fresh when it came is used again in
every update until its worker's next one, and it is the age of the remembered returns that the
bounds for algorithms with a memory have in them. The age of a slot in the update that makes x_t is
t - 1 - mu, with mu the version that the return in it was computed from; it is the return's delay in
the round in which it comes, and grows by one in each round after. A worker that has not returned
counts as one that pulled version 0.

Memory: ``slot_pulled``: mu of each worker's latest return, shape (M,), int64, beside the wrapped
algorithm's.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.worker_memory import newest_returns
from tasks.runtime.metrics import Metric

_NAME = "slot_pulled"


def with_ages(inner: ServerAlgorithm, num_workers: int) -> ServerAlgorithm:
    """Let a server algorithm that remembers returns keep their versions too.

    Args:
        inner: The algorithm; what it computes stays the same to the bit.
        num_workers: M.

    Returns:
        The algorithm.
    """

    def init(model: Tensor) -> ServerState:
        state = inner.init(model)
        pulled = torch.zeros(num_workers, dtype=torch.int64, device=model.device)
        return replace(state, memory=state.memory | {_NAME: pulled})

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        newest = newest_returns(returns.worker)
        pulled = state.version - returns.delay[newest]
        state.memory[_NAME].index_copy_(0, returns.worker[newest], pulled)
        return inner.aggregate(state, returns)

    return ServerAlgorithm(init, aggregate)


def age_metrics(state: ServerState) -> dict[str, float]:
    """Say how old the remembered returns were in the update that made a model.

    Args:
        state: At the version of that model.

    Returns:
        Mean and largest age over all M workers, in rounds; nothing without a memory, or before the
        first update.
    """
    pulled = state.memory.get(_NAME)
    if pulled is None or state.version == 0:
        return {}
    ages = state.version - 1 - pulled
    return {
        Metric.MEMORY_AGE_MEAN: float(ages.double().mean()),
        Metric.MEMORY_AGE_MAX: float(ages.max()),
    }
