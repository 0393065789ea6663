"""Every worker's latest return, and the mean of them: the memory of AFA-CS, MIFA, CA2FL and AREA.

The mean over all M slots is kept as a running sum, so that a return costs O(P) and not O(M*P).
A sum kept up by differences alone drifts: each rounding error stays in it for ever, and those of
early, large returns outlive the returns themselves. Therefore a second sum is built afresh beside
it, as many slots further in each round as there were returns; once it has passed all M slots it
replaces the first. No error lives longer than two sweeps, about 2M/m rounds.

Both sums are float64. The differences of rows are taken in the slots' own dtype, which is twice as
fast: the 2M of them that a sum can hold put at most about one unit roundoff of a row into the mean,
which is what the rows' own rounding does. (Two-sum compensation would cost more than the sweep and
need differences in double the slots' precision; a full sum every so many rounds would stop the
server for O(M*P).)

Symbols: M workers, n returns of different workers, P parameters.

Names in ``ServerState.memory``:
    slots: Latest row of each worker, zeros before the first, shape (M, P).
    slot_filled: Which workers have returned at least once, shape (M,), bool.
    num_filled: How many they are, shape (), int64.
    slot_sum: Sum of all slots, shape (P,), float64.
    sweep_sum: Sum of the slots before ``sweep_next``, shape (P,), float64.
    sweep_next: The slot that the sweep adds next, shape (), int64.
"""

import mmap

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

    Raises:
        OSError: The slots would take more memory than the machine has.
    """
    zero_sum = torch.zeros_like(model, dtype=torch.float64)
    return {
        "slots": untouched_zeros(num_workers, model),
        "slot_filled": torch.zeros(num_workers, dtype=torch.bool, device=model.device),
        "num_filled": torch.zeros((), dtype=torch.int64, device=model.device),
        "slot_sum": zero_sum,
        "sweep_sum": zero_sum.clone(),
        "sweep_next": torch.zeros((), dtype=torch.int64, device=model.device),
    }


def untouched_zeros(num_rows: int, like: Tensor) -> Tensor:
    """Make zeros that on a CPU take memory only where they are written.

    Most rows may never be. For 100,000 rows of 7,850 float32, ``torch.zeros`` takes 3 GB and 5 s at
    once; ``numpy.zeros`` asks for pages of 2 MiB, of which 20 written rows a round first touch
    20 (40 ms a round, against 0.8 ms with the pages of 4 KiB that a private mapping has).

    Args:
        num_rows: At least 1.
        like: A vector, shape (P,), that gives P, dtype and device.

    Returns:
        Zeros of shape (num_rows, P).

    Raises:
        OSError: They would take more memory than the machine has.
    """
    if like.device.type != "cpu":
        return torch.zeros((num_rows, like.numel()), dtype=like.dtype, device=like.device)
    num_bytes = num_rows * like.numel() * like.element_size()
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(num_rows, like.numel())


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
    if len(newest) < len(worker):
        worker, rows = worker[newest], rows.index_select(0, newest)
    change = latest(memory, worker)
    torch.sub(rows, change, out=change)
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
    fresh += (worker < begin).to(change.dtype) @ change
    # Slots that were never written are not read, as reading would map their pages.
    written = begin + memory["slot_filled"][begin:end].nonzero().squeeze(dim=1)
    fresh += slots.index_select(0, written).sum(dim=0)
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
    return memory["slots"].index_select(0, worker)


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
