"""Titles of fields in forms, from their names: ``budget_s`` is "Budget (s)"."""

_UNITS = {
    "gb_per_s": "GB/s",
    "bytes": "bytes",
    "us": "\N{MICRO SIGN}s",
    "s": "s",
    "w": "W",
}
"""Last words of a name that are a unit; longer ones first."""
_WORDS = {
    "lr": "learning rate",
    "l2": "L2 penalty",
    "dtype": "floating-point type",
    "cpus": "CPUs",
    "gpus": "GPUs",
    "gpu": "GPU",
    "qos": "QOS",
    "gflops": "GFLOPs",
    "tflops": "TFLOPS",
    "init_std": "initial standard deviation",
    "beta1": "beta 1",
    "beta2": "beta 2",
    "gb_per_s": "bandwidth (GB/s)",
}


def title_of(name: str) -> str:
    """Return the title of a field.

    Args:
        name: The field's name: words with underscores, and perhaps a unit at the end.

    Returns:
        The words as a title, in sentence case, with the unit in brackets.
    """
    words, told = name, ""
    for suffix, unit in _UNITS.items():
        if name.endswith(f"_{suffix}") and name not in _WORDS:
            words, told = name.removesuffix(f"_{suffix}"), f" ({unit})"
            break
    whole = _WORDS.get(words) or " ".join(_WORDS.get(word, word) for word in words.split("_"))
    return whole[0].upper() + whole[1:] + told
