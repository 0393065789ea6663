"""Errors of the ranks: what a rank sees when another one is gone."""

from torch import distributed as dist

_WORDS_OF_GLOO = ("gloo/transport", "gloo/rendezvous")
"""gloo raises a plain RuntimeError that names its own source file, which others quote."""
_WORDS_OF_A_FILE = ("Timeout waiting for key", "Wait timeout")
"""So does a store in a file, which begins with these."""
_PLACE = "] "
_MOST_CHARACTERS = 200


def lost_peer(error: BaseException) -> str | None:
    """Say whether an error is the consequence of another rank's end or silence.

    Whoever raises it is not to blame: the rank that is gone closes its connections by that, or
    keeps the others waiting for it.

    Args:
        error: What a rank has raised.

    Returns:
        The first sentence of what the communication library says; None for any other error.
    """
    cause: BaseException | None = error
    while cause is not None:
        is_gloo = any(word in str(cause) for word in _WORDS_OF_GLOO)
        is_store = isinstance(cause, RuntimeError) and str(cause).startswith(_WORDS_OF_A_FILE)
        if is_gloo or is_store or isinstance(cause, dist.DistError):
            first_line = next(iter(str(cause).splitlines()), type(cause).__name__)
            said = first_line.partition(_PLACE)[2] or first_line  # without its source file
            return said.partition(". ")[0][:_MOST_CHARACTERS]  # without its advice
        cause = cause.__cause__
    return None
