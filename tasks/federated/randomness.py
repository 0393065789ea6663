"""Random streams that are a pure function of what they are for.

A draw is keyed by (seed, purpose, two counters), so it depends neither on the order in which
things are computed, nor on how workers are batched, nor on where a run was interrupted.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64
_EMPTY_BUFFER = np.zeros(4, dtype=np.uint64)


class Stream(IntEnum):
    """What a random stream is for."""

    INITIAL_MODEL = 1
    ARRIVALS = 2
    DELAYS = 3
    LOCAL_STEPS = 4
    SERVICE = 5
    SPEEDS = 6
    BATCHES = 7
    GRADIENT_NOISE = 8
    AVAILABILITY = 9


def generator(seed: int, stream: Stream, first: int = 0, second: int = 0) -> np.random.Generator:
    """Return the generator of one purpose: Philox, keyed by the seed and counted from the purpose.

    Args:
        seed: The experiment's seed, in [0, 2**63).
        stream: What the draws are for.
        first: First counter, such as a round or a worker id, in [0, 2**63).
        second: Second counter, such as the worker's n-th return, in [0, 2**63).

    Returns:
        A generator with 2**64 draws of its own.
    """
    counter, key = _counter_and_key(seed, stream, first, second)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def rekey(
    existing: np.random.Generator, seed: int, stream: Stream, first: int = 0, second: int = 0
) -> None:
    """Make a generator the one that ``generator`` would return; it costs a third of a new one.

    Args:
        existing: What ``generator`` returned earlier; it forgets what it was for.
        seed: As for ``generator``.
        stream: As for ``generator``.
        first: As for ``generator``.
        second: As for ``generator``.
    """
    counter, key = _counter_and_key(seed, stream, first, second)
    existing.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": key},
        "buffer": _EMPTY_BUFFER,
        "buffer_pos": len(_EMPTY_BUFFER),
        "has_uint32": 0,
        "uinteger": 0,
    }


def _counter_and_key(
    seed: int, stream: Stream, first: int, second: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    counter = np.array([0, first % _WORD, second % _WORD, 0], dtype=np.uint64)
    key = np.array([seed % _WORD, int(stream)], dtype=np.uint64)
    return counter, key
