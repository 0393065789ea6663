"""Plays as samples: the next character after a context, spoken by a role.

The text is a sequence of speeches, each headed by a line ``Name:`` after an empty line. A role is
a name: minor roles of different plays that share one (``First Citizen``) are not told apart.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import DatasetError

STRIDE = 20
"""Characters between two windows of a role: every character is trained on as a context, but only
each 20th as a target, as neighbouring windows say nearly the same and cost as much again."""

TEST_SHARE = 0.1
"""Share of each role's text, at its end, that is kept for testing (LEAF: 0.1 or 0.2)."""

_HEADING = re.compile(r"(?:\A|\n\s*\n)([A-Z][^\n:]*):\n")


@dataclass(frozen=True)
class Windows:
    """Contexts with the character that follows, as symbol numbers.

    Attributes:
        train: Shape (N, context + 1), uint8; role after role.
        test: Shape (N_test, context + 1), uint8.
        owners: Number of the role of each training window, in order of appearance, shape (N,).
        symbols: The vocabulary, sorted; a symbol's number is its position.
    """

    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    owners: NDArray[np.int64]
    symbols: str


def speaking_roles(text: str, source: str) -> dict[str, str]:
    """Collect what each role says, in order of first appearance.

    Args:
        text: The plays.
        source: Where the text is from, for the error message.

    Returns:
        Name of the role -> its speeches, joined by newlines.

    Raises:
        DatasetError: No speech was found.
    """
    _, *parts = _HEADING.split(text)
    if not parts:
        raise DatasetError(
            f"{source}: found no speaking role; each speech must follow an empty line and a line "
            "with the name and a colon, such as 'First Citizen:'"
        )
    speeches: dict[str, list[str]] = {}
    for name, speech in zip(parts[::2], parts[1::2], strict=True):
        speeches.setdefault(name, []).append(speech.strip("\n") + "\n")
    return {name: "".join(spoken) for name, spoken in speeches.items()}


def windows(speeches: dict[str, str], *, context: int, stride: int = STRIDE) -> Windows:
    """Cut each role's text into windows, the beginning for training and the end for testing.

    Args:
        speeches: Name of the role -> what it says.
        context: Characters before the one to predict.
        stride: Characters between the beginnings of two windows.

    Returns:
        The windows. Roles that say less than one window have none.

    Raises:
        DatasetError: Training or test windows are missing, or there are over 256 symbols.
    """
    symbols = "".join(sorted(set("".join(speeches.values()))))
    if len(symbols) > 256:
        raise DatasetError(f"the text has {len(symbols)} different characters; at most 256 fit")
    number = {symbol: index for index, symbol in enumerate(symbols)}
    train, test, owners = [], [], []
    for role, text in enumerate(speeches.values()):
        codes = np.array([number[symbol] for symbol in text], dtype=np.uint8)
        begin_test = round(len(codes) * (1 - TEST_SHARE))
        train.append(_cut(codes[:begin_test], context + 1, stride))
        test.append(_cut(codes[begin_test:], context + 1, stride))
        owners.append(np.full(len(train[-1]), role, dtype=np.int64))
    result = Windows(np.concatenate(train), np.concatenate(test), np.concatenate(owners), symbols)
    if not len(result.train) or not len(result.test):
        raise DatasetError(
            f"no role says enough for a context of {context} characters in training and in its "
            f"last {TEST_SHARE:.0%}; use a longer text"
        )
    return result


def _cut(codes: NDArray[np.uint8], length: int, stride: int) -> NDArray[np.uint8]:
    if len(codes) < length:
        return np.empty((0, length), dtype=np.uint8)
    return np.lib.stride_tricks.sliding_window_view(codes, length)[::stride]
