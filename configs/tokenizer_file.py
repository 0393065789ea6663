"""How many tokens a ``tokenizer.json`` has, read without the ``tokenizers`` library."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

_MOST_BYTES = 1_000_000_000
"""Far more than any has; what is larger is a data set that was named by mistake."""


class TokenizerFileError(ValueError):
    """A file that is no tokenizer; says which, and what it is instead."""


def vocabulary_of(path: Path) -> int:
    """Return how many rows of an embedding a tokenizer needs: one more than its largest number.

    Args:
        path: A ``tokenizer.json``; read once for all points of a study, as long as it stays as it
            is.

    Returns:
        The number, as the library would have it.

    Raises:
        TokenizerFileError: It cannot be read, or is no tokenizer.
    """
    try:
        if not path.is_file():
            raise TokenizerFileError(f"{path} is no file")
        facts = path.stat()
    except OSError as error:
        raise TokenizerFileError(f"cannot read {path}: {error.strerror}") from error
    if facts.st_size > _MOST_BYTES:
        gigabytes = f"{facts.st_size / 1e9:,.3g} GB"
        raise TokenizerFileError(f"{path} has {gigabytes}, more than a tokenizer ever has")
    return _read(path, facts.st_mtime_ns, facts.st_size)


@lru_cache
def _read(path: Path, modified_ns: int, size: int) -> int:
    """Read a file; the same one again only when it has changed.

    Raises:
        TokenizerFileError: It cannot be read, or is no tokenizer.
    """
    del modified_ns, size
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerFileError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TokenizerFileError(f"{path} is not JSON") from error
    try:
        numbers, added = _numbers(content["model"]["vocab"]), _words(content.get("added_tokens"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerFileError(f"{path} holds no model with a vocabulary") from error
    # The library does not take the numbers in the file for tokens that the model lacks: it counts
    # on from the number of the model's tokens.
    num_tokens = len(numbers.keys() | added)
    if not num_tokens:
        raise TokenizerFileError(f"{path} has no tokens")
    return max(num_tokens, 1 + max(numbers.values(), default=0))


def _numbers(vocabulary: Any) -> dict[str, int]:  # noqa: ANN401  JSON: any type arrives here
    """Return the number of each token of a model; a list of pieces is numbered as it stands.

    Raises:
        TypeError: It is no vocabulary; so say AttributeError and ValueError.
    """
    if isinstance(vocabulary, list):
        return {piece: number for number, (piece, _) in enumerate(vocabulary)}
    for number in vocabulary.values():
        if not isinstance(number, int) or number < 0:
            raise TypeError
    return dict(vocabulary)


def _words(added: Any) -> set[str]:  # noqa: ANN401  JSON: any type arrives here
    return {token["content"] for token in added or ()}
