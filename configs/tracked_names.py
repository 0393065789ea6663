"""Names as MLflow takes them: of metrics, parameters and tags."""

import re


def tracked_name(text: str) -> str:
    """Replace the characters that MLflow refuses in names.

    Args:
        text: A name, such as that of an axis of a grid.

    Returns:
        The name with an underscore for each of them; the same for a name that is replaced already.
    """
    return re.sub(r"[^\w\-. :/]", "_", text)
