"""Text of others, for a terminal."""

from tasks.runtime.plain_text import plain


def test_what_a_terminal_obeys_is_blank() -> None:
    """Escapes, bells, carriage returns, the C1 set and marks that turn the direction."""
    text = "a\x1b[2Jb\x1b]52;c;eA==\x07c\rd\x9b1me\u202ef"

    assert plain(text) == "a [2Jb ]52;c;eA== c d 1me f"


def test_words_lines_and_tabs_stay() -> None:
    """Of any alphabet."""
    text = "Größe\t1\n损失 ± 2\n"

    assert plain(text) == text
