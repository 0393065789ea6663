"""Counts and sizes as people write them: 4M tokens, 60GB."""

import re

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_SIZES = {
    "": 1,
    "b": 1,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def count_of(text: str) -> int:
    """Read a count.

    Args:
        text: A number, with K, M or G (B) for thousands, millions or billions; underscores and
            commas may divide it.

    Returns:
        The count, at least 1.

    Raises:
        ValueError: It is none.
    """
    return _read(text, _COUNTS, "a count; write it like 4M, 4_000_000 or 512K")


def bytes_of(text: str) -> int:
    """Read a size.

    Args:
        text: A number, with MB, GB, TB (powers of ten) or MiB, GiB, TiB (of two).

    Returns:
        Bytes, at least 1.

    Raises:
        ValueError: It is none.
    """
    return _read(text, _SIZES, "a size; write it like 60GB, 64GiB or 64000000000")


def _read(text: str, units: dict[str, int], wanted: str) -> int:
    match = _NUMBER.fullmatch(text.strip().replace("_", "").replace(",", ""))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not {wanted}")
    value = round(float(match[1]) * units[match[2].lower()])
    if value < 1:
        raise ValueError(f"{text!r} is not {wanted}")
    return value
