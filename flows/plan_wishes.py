"""What a user wants planned, read whole: from the command line's options or Prefect's form."""

from collections.abc import Mapping
from typing import Any

from configs.base import Fault
from configs.faults import faults_in
from configs.quantities import bytes_of, count_of
from configs.training import TrainingExperiment
from tasks.zero.planning.plans import PlanError, Wish
from tasks.zero.planning.space import PREFETCHES

PREFETCH = ",".join(map(str, PREFETCHES))
"""Those of a plan that asks for no others."""
_MOST_PREFETCH = 64
"""As a training may have."""
_MOST_PREFETCHES = 8
"""Each one is as many candidates again."""


def read_wish(
    raw: Mapping[str, Any],
    batch_tokens: str,
    memory: str | None,
    prefetch: str = PREFETCH,
    *,
    is_exact: bool,
    top: int,
) -> Wish:
    """Read what is to be planned.

    Args:
        raw: Model, topology, ranks, sequence, dtype and engine, as in a training's file.
        batch_tokens: Tokens of a train step, such as ``4M``.
        memory: What may be used of a device, such as ``60GB``; None for all that it has.
        prefetch: Blocks to gather ahead, to choose from, such as ``0,1,2``.
        is_exact: Whether nothing may be rounded on the wire.
        top: Partitions to list.

    Returns:
        The wish, valid.

    Raises:
        PlanError: It is faulty: all faults.
    """
    raw = {"kind": "training", "data": "arithmetic", "partition": "zero3", **raw}
    faults = faults_in(TrainingExperiment, raw)
    tokens = memory_bytes = None
    try:
        tokens = count_of(batch_tokens)
    except ValueError as error:
        faults.append(Fault(path="batch_tokens", message=str(error)))
    try:
        memory_bytes = None if memory is None else bytes_of(memory)
    except ValueError as error:
        faults.append(Fault(path="memory", message=str(error)))
    prefetches = _prefetches(prefetch)
    if prefetches is None:
        message = f"{prefetch!r} is not what may be chosen from; write up to {_MOST_PREFETCHES} "
        message += f"whole numbers from 0 to {_MOST_PREFETCH} with commas, like 0,1,2"
        faults.append(Fault(path="prefetch", message=message))
    if faults or tokens is None or prefetches is None:
        raise PlanError(faults)
    base = TrainingExperiment.model_validate(raw)
    memory_bytes = memory_bytes or base.topology.device.memory_bytes
    if memory_bytes is None:
        message = f"how much memory a device of {base.topology.name} has is not known; say it "
        message += "here, such as 16GB, or write device.memory_bytes in its file"
        raise PlanError([Fault(path="memory", message=message)])
    return Wish(base, tokens, memory_bytes, is_exact=is_exact, num_best=top, prefetches=prefetches)


def _prefetches(text: str) -> tuple[int, ...] | None:
    """Read numbers with commas; None for what are none."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        return None
    found = tuple(sorted({int(word) for word in words}))
    return found if len(found) <= _MOST_PREFETCHES and found[-1] <= _MOST_PREFETCH else None
