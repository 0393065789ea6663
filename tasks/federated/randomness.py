"""Random streams that are a pure function of what they are for.

A draw is keyed by (seed, purpose, two counters), so it depends neither on the order in which
things are computed, nor on how workers are batched, nor on where a run was interrupted.
"""

from enum import IntEnum

import numpy as np

_WORD = 2**64


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
    counter = np.array([0, first % _WORD, second % _WORD, 0], dtype=np.uint64)
    key = np.array([seed % _WORD, int(stream)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
