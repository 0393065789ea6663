"""Words for the axes of a study's grid."""

SEED_AXES = frozenset({"seed", "data.seed"})
"""Axes along which runs are repeated, not compared."""


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
