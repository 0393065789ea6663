"""Errors of the ranks: what a rank sees when another one is gone, and what NCCL says of its own."""

from torch import distributed as dist

_WORDS_OF_GLOO = ("gloo/transport", "gloo/rendezvous")
"""gloo raises a plain RuntimeError that names its own source file, which others quote."""
_WORDS_OF_A_FILE = ("Timeout waiting for key", "Wait timeout")
"""So does a store in a file, which begins with these."""
_WORDS_OF_NCCL = (
    "ncclRemoteError",
    "remote process",
    "remote peer",
    "store->get",
    "collective operation timeout",
    "NCCL timeout",
    "Connection refused",
    "Connection reset",
    "Connection timed out",
)
"""torch raises the same error for all that NCCL says; only with these it is of another rank."""
_LAST = "Last error:"
_PLACE = "] "
_MOST_CHARACTERS = 200


def lost_peer(error: BaseException) -> str | None:
    """Say whether an error is the consequence of another rank's end or silence.

    Whoever raises it is not to blame: the rank that is gone closes its connections by that, or
    keeps the others waiting for it.

    Args:
        error: What a rank has raised.

    Returns:
        The first sentence of what the communication library says, and NCCL's last words; None for
        any other error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_of_another_rank(cause):
            first_line = next(iter(str(cause).splitlines()), type(cause).__name__)
            said = first_line.partition(_PLACE)[2] or first_line  # without its source file
            first = said.partition(". ")[0][:_MOST_CHARACTERS]  # without its advice
            return ": ".join(filter(None, (first, last_words(cause))))
        cause = cause.__cause__
    return None


def last_words(error: BaseException) -> str:
    """Return what NCCL says of an error, after the words that all errors of its kind have.

    Args:
        error: What a rank has raised.

    Returns:
        In one line; empty if it says nothing.
    """
    return " ".join(str(error).partition(_LAST)[2].partition("Exception raised from")[0].split())


def _is_of_another_rank(error: BaseException) -> bool:
    text = str(error)
    if isinstance(error, dist.DistBackendError):
        return any(words in text for words in (*_WORDS_OF_NCCL, *_WORDS_OF_GLOO))
    is_store = isinstance(error, RuntimeError) and text.startswith(_WORDS_OF_A_FILE)
    is_gloo = any(words in text for words in _WORDS_OF_GLOO)
    return is_gloo or is_store or isinstance(error, dist.DistError)
