"""Every worker's latest return, and the mean of them: the memory of AFA-CS, MIFA, CA2FL and AREA.

The mean over all M slots is kept as a running sum, so that a return costs O(P) and not O(M*P).
A sum kept up by differences alone drifts: each rounding error stays in it for ever, and those of
the early, large returns outlive the returns themselves. Therefore a second sum is built afresh
beside it, as many slots further in each round as there were returns; once it has passed all M
slots it replaces the first. No error lives longer than two sweeps, about 2M/m rounds, whatever the
slots' dtype. (Two-sum compensation costs as much and keeps the errors of the row differences; a
full sum every so many rounds stops the server for O(M*P).) Both sums are float64.

Symbols: M workers, n returns of different workers, P parameters.

Names in ``ServerState.memory``:
    slots: Latest row of each worker, zeros before the first, shape (M, P).
    slot_filled: Which workers have returned at least once, shape (M,), bool.
    num_filled: How many they are, shape (), int64.
    slot_sum: Sum of all slots, shape (P,), float64.
    sweep_sum: Sum of the slots before ``sweep_next``, shape (P,), float64.
    sweep_next: The slot that the sweep adds next, shape (), int64.
"""

import numpy as np
import torch
from torch import Tensor

from configs.algorithms import Slots


def empty_memory(model: Tensor, num_workers: int) -> dict[str, Tensor]:
    """Make a memory in which no worker has returned.

    Args:
        model: Any model, shape (P,); gives P, dtype and device.
        num_workers: M, at least 1.

    Returns:
        The tensors listed at the head of this module.
    """
    zero_sum = torch.zeros_like(model, dtype=torch.float64)
    return {
        "slots": _untouched_zeros((num_workers, model.numel()), model),
        "slot_filled": torch.zeros(num_workers, dtype=torch.bool, device=model.device),
        "num_filled": torch.zeros((), dtype=torch.int64, device=model.device),
        "slot_sum": zero_sum,
        "sweep_sum": zero_sum.clone(),
        "sweep_next": torch.zeros((), dtype=torch.int64, device=model.device),
    }


def _untouched_zeros(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Make zeros that on a CPU take no memory until they are written.

    ``torch.zeros`` writes them (measured with torch 2.13: 3 GB and 5 s for 100,000 workers with
    7,850 parameters, where NumPy's calloc takes nothing), and most workers may never return.
    """
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    return torch.from_numpy(np.zeros(shape, dtype=str(like.dtype).removeprefix("torch.")))


def newest_returns(worker: Tensor) -> Tensor:
    """Find the last return of each worker in a buffer.

    Args:
        worker: Worker ids in order of arrival, shape (m,), int64.

    Returns:
        Positions in the buffer, shape (n,), int64, in order of worker id: one for each worker.
    """
    order = worker.argsort(stable=True)
    is_last = torch.ones_like(worker, dtype=torch.bool)
    is_last[:-1] = worker[order[1:]] != worker[order[:-1]]
    return order[is_last]


def remember(memory: dict[str, Tensor], worker: Tensor, rows: Tensor) -> None:
    """Overwrite the slots of the workers that have returned, in place.

    Of two returns of one worker, the newest stays.

    Args:
        memory: As ``empty_memory`` made it; changed in place.
        worker: Worker ids in order of arrival, shape (m,), int64.
        rows: What each worker's slot is to hold, shape (m, P).
    """
    newest = newest_returns(worker)
    worker, rows = worker[newest], rows[newest]
    change = rows.double() - memory["slots"][worker].double()
    memory["slots"].index_copy_(0, worker, rows)
    memory["num_filled"] += (~memory["slot_filled"][worker]).sum()
    memory["slot_filled"].index_fill_(0, worker, value=True)
    memory["slot_sum"] += change.sum(dim=0)
    _sweep(memory, worker, change)


def _sweep(memory: dict[str, Tensor], worker: Tensor, change: Tensor) -> None:
    """Bring the fresh sum up to date, n slots further, and put it in place when it is whole."""
    slots, fresh = memory["slots"], memory["sweep_sum"]
    begin = int(memory["sweep_next"])
    end = min(begin + len(worker), len(slots))
    fresh += change[worker < begin].sum(dim=0)
    fresh += slots[begin:end].sum(dim=0, dtype=torch.float64)
    if end == len(slots):
        memory["slot_sum"].copy_(fresh)
        fresh.zero_()
        end = 0
    memory["sweep_next"].fill_(end)


def latest(memory: dict[str, Tensor], worker: Tensor) -> Tensor:
    """Look up slots.

    Args:
        memory: As ``empty_memory`` made it.
        worker: Worker ids, shape (m,), int64.

    Returns:
        A copy of their slots, shape (m, P).
    """
    return memory["slots"][worker]


def mean_of_all(memory: dict[str, Tensor]) -> Tensor:
    """Average all slots; a worker that has not returned counts as zero.

    Args:
        memory: As ``empty_memory`` made it.

    Returns:
        The mean over M, shape (P,), in the slots' dtype.
    """
    return (memory["slot_sum"] / len(memory["slots"])).to(memory["slots"].dtype)


def mean_of_latest(memory: dict[str, Tensor], slots: Slots) -> Tensor | None:
    """Average every worker's latest return.

    The three settings differ only until every worker has returned once.

    Args:
        memory: As ``empty_memory`` made it; at least one worker has returned.
        slots: ``zeros`` counts a worker that has not returned as zero (as SAG does: early steps
            are small); ``wait`` gives no mean until all have returned; ``seen`` divides by the
            number of workers that have.

    Returns:
        The mean, shape (P,), in the slots' dtype; None while it waits.
    """
    if slots == "zeros":
        return mean_of_all(memory)
    num_filled = int(memory["num_filled"])
    if slots == "wait" and num_filled < len(memory["slots"]):
        return None
    return (memory["slot_sum"] / num_filled).to(memory["slots"].dtype)
