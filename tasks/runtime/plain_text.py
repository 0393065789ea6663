"""Text of others as it may be shown: a terminal obeys what it finds in it."""


def plain(text: str) -> str:
    """Return a text with blanks for what is not to be seen, such as a terminal's commands.

    A job, a node or another user may have written it, and by such commands it could hide lines,
    name a window, or put words into the clipboard.

    Args:
        text: Any text; ends of lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else " " for one in text)
