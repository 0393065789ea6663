"""Words for the axes of a study's grid."""

SEED_AXES = frozenset({"seed", "data.seed"})
"""Axes along which runs are repeated, not compared."""
_CLEAR = {"algorithm", "partition", "engine", "strategy"}
"""Axes whose values are names that need no other."""


def short_name(axis: str) -> str:
    """Name an axis by the last part of its path, or by the one before a mere tag.

    Args:
        axis: Such as ``local_steps.kind`` or ``algorithm.server_lr``.

    Returns:
        Words for people, such as ``local steps`` or ``server lr``.
    """
    *parents, last = axis.split(".")
    is_tag = last in {"name", "kind", "optimizer"}
    return (parents[-1] if parents and is_tag else last).replace("_", " ")


def told(axis: str, label: str) -> str:
    """Name one value of an axis, for a legend or a heading.

    Args:
        axis: The grid axis.
        label: The value's label on it.

    Returns:
        Such as ``server lr: 0.5``; the label alone where it says what it is.
    """
    name = short_name(axis)
    is_clear = name in _CLEAR or label.startswith(f"{name}=")
    return label if is_clear else f"{name}: {label}"
