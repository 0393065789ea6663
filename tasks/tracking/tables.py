"""Tables of the reports, in Markdown, and the texts in their cells."""

from collections.abc import Callable, Sequence

from tasks.tracking.rows import Row

Column = tuple[str, Callable[[Row], str]]
"""Its head, and the text of a row; empty where the row has no value."""


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Write a table; a bar in a text does not end its cell."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def number(value: float | None, digits: int) -> str:
    """Write a number with so many digits; None gives no text."""
    return "" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """Write a share; None gives no text."""
    return "" if value is None else f"{100 * value:.1f} %"


def seconds(value: float | None) -> str:
    """Write a time; None gives no text."""
    return "" if value is None else f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def exponent(value: float | None, low: float | None, high: float | None) -> str:
    """Write a fitted exponent with its interval, which is centred on it; None gives no text."""
    if value is None or low is None or high is None:
        return ""
    return f"{value:.2f} ± {(high - low) / 2:.2f}"


def scaled(value: float | None, unit: str = "") -> str:
    """Write a large number in three digits, such as ``12.3 M``.

    Args:
        value: Not negative; None gives no text.
        unit: What is counted, such as ``B``.
    """
    if value is None:
        return ""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}".rstrip()
        value /= 1000
    return f"{value:.0f} P{unit}"
