"""A text that is made, not downloaded: lines of right sums and differences, ``417+85=502``.

What is to the left of an equals sign is drawn; what is to its right follows. So the loss of a model
that learns falls in sight, first to the shape of a line, then further with every carry it gets
right, and stays above the entropy of what is drawn.
"""

import random
from collections.abc import Iterator

VERSION = "arithmetic 1"
"""Changes with the text, so that no token file of an older one is taken for it."""

NUM_LINES = 130_000
_LINES_AT_ONCE = 5_000
_SEED = 0


def arithmetic_text() -> Iterator[str]:
    """Yield the text in parts: about 1.4 MB, the same everywhere."""
    # Of this generator, `random` alone promises the same numbers in all versions of Python.
    uniform = random.Random(_SEED).random  # noqa: S311  no secret
    for _ in range(NUM_LINES // _LINES_AT_ONCE):
        yield "".join(_line(uniform(), uniform(), uniform()) for _ in range(_LINES_AT_ONCE))


def _line(first: float, second: float, operation: float) -> str:
    # The squares make small numbers frequent: those are learned first, and carry to the others.
    left, right = int(1000 * first**2), int(1000 * second**2)
    if operation < 0.5:
        return f"{left}+{right}={left + right}\n"
    left, right = max(left, right), min(left, right)
    return f"{left}-{right}={left - right}\n"
