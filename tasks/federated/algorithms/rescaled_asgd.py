"""Rescaled ASGD: each return weighs as much as its worker took time, which undoes frequency.

Mahran, Maranjyan and Richtarik, "Rescaled Asynchronous SGD: Optimal Distributed Optimization under
Data and System Heterogeneity", 2026, arXiv:2605.13434. Known here from its abstract: steps in
proportion to the workers' compute times give every worker the same sum of rates over a cycle, and
so correct the bias towards fast workers without a memory of models. The estimator below and all
that concerns buffers and local steps are this file's own.

    x_{t+1} = x_t + eta * (1/m) * sum_{i in S_t} (gap_i / mean_gap) * delta_i

gap_i is the time from worker i's previous return (from 0 for its first) to this one; mean_gap is
the mean over all returns so far, those in the buffer included, so that weights are 1 on average
and eta means what it means in AFA-CD. delta_i is normalised as in AFA-CD: with whole changes, a
worker whose time grows with its steps would be paid twice for them.

Why it works: a worker's gaps add up to the time of its last return, so by time T every worker has
been given about T of weight, however it was spread. AFA-CD's worker i has weight in proportion to
its frequency p_i; as the mean gap of stationary arrivals is 1 / p_i, here the product is 1.

Departures: the source weighs by compute time. That is the gap for a worker that pulls again at
once; for one that pauses, the gap corrects the pause as well, where compute time would not. The
first gap is the compute time if the worker began at time 0. Two returns of a worker in one buffer
have their own gaps, the second from the first; at the same instant it weighs nothing, as no time
has passed. While no time at all has passed, weights are 1. A return after a long absence has a
large weight by design: eta times the largest gap over the mean gap is what must stay below the
stability limit.

Memory: ``last_return_s``: shape (M,), float64; ``gap_sum_s``: sum of all gaps, shape (), float64;
``num_returns``: how many they are, shape (), int64. O(M) numbers and no models.
"""

import torch
from torch import Tensor

from configs.algorithms import RescaledAsgd
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import optimizer


def rescaled_asgd(config: RescaledAsgd, num_workers: int) -> ServerAlgorithm:
    """Make Rescaled ASGD.

    Args:
        config: Rate and server-side optimiser.
        num_workers: M.

    Returns:
        The algorithm.
    """
    server = optimizer(config)

    def init(model: Tensor) -> ServerState:
        device = model.device
        memory = {
            "last_return_s": torch.zeros(num_workers, dtype=torch.float64, device=device),
            "gap_sum_s": torch.zeros((), dtype=torch.float64, device=device),
            "num_returns": torch.zeros((), dtype=torch.int64, device=device),
        }
        return ServerState(model, memory=memory | server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        memory = state.memory
        gap_s = _take_gaps(memory["last_return_s"], returns)
        memory["gap_sum_s"] += gap_s.sum()
        memory["num_returns"] += len(returns)
        mean_gap_s = memory["gap_sum_s"] / memory["num_returns"]
        weight = torch.where(mean_gap_s > 0, gap_s / mean_gap_s, 1.0).to(returns.delta.dtype)
        return server.step(state, (weight[:, None] * returns.delta).mean(dim=0), returns)

    return ServerAlgorithm(init, aggregate)


def _take_gaps(last_return_s: Tensor, returns: Returns) -> Tensor:
    """Measure the time since each return's predecessor, and move ``last_return_s`` on in place."""
    order = returns.worker.argsort(stable=True)
    worker, at_s = returns.worker[order], returns.returned_at_s[order]
    repeated = torch.cat([worker.new_zeros(1, dtype=torch.bool), worker[1:] == worker[:-1]])
    previous_s = torch.where(repeated, at_s.roll(1), last_return_s[worker])
    gap_s = torch.empty_like(at_s)
    gap_s[order] = at_s - previous_s
    # Times of one worker rise with arrival, so the largest is its last.
    last_return_s.scatter_reduce_(0, worker, at_s, "amax")
    return gap_s
