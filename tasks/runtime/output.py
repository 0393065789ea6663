"""What a job says on its way, for people; it ends up in ``stdout.log``."""

import sys


def say(text: str) -> None:
    """Write a line, at once.

    Args:
        text: The line.
    """
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
