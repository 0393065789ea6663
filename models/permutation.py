"""A random order of very many things, of which any place can be looked up by itself."""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def permuted(
    positions: NDArray[np.uint64], size: int, *, seed: tuple[int, ...]
) -> NDArray[np.uint64]:
    """Look up places in a random order of 0, 1, ..., size - 1 that is never written down.

    A Feistel network permutes the numbers of an even number of bits; those that fall beyond the
    size are permuted again until they do not (cycle walking; Black and Rogaway 2002, section 5).

    Args:
        positions: Places, each below the size.
        size: How many numbers, at least 1.
        seed: Each has an order of its own; numbers at least 0.

    Returns:
        The numbers at those places.
    """
    half_bits = max(2, ((size - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    numbers = positions.astype(np.uint64)
    outside = np.arange(len(numbers))
    while len(outside):
        numbers[outside] = _network(numbers[outside], np.uint64(half_bits), keys)
        outside = outside[numbers[outside] >= size]
    return numbers


def _network(
    numbers: NDArray[np.uint64], half_bits: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = numbers >> half_bits, numbers & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << half_bits) | right
