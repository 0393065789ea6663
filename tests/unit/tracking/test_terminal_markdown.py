"""Markdown on a narrow terminal: what differs looks different."""

import io

import pytest
from rich.console import Console

from tasks.tracking.terminal_markdown import TerminalMarkdown

_REPORT = """
# scaling, night of 2026-11-23: regression

| point | metric | tonight | change [95 %] | mark | confidence |
| --- | --- | --- | --- | --- | --- |
| partition=zero_topo·ranks=8 | tokens_per_s | 1.234e+04 | -10 % [-12 %, -8 %] | worse | > 99.9 % |
| partition=zero_topo·ranks=16 | tokens_per_s | 1.234e+04 | -0.1 % [-2 %, 1.8 %] | same |  |

After the table.
"""


def _shown(width: int) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width, color_system=None).print(TerminalMarkdown(_REPORT))
    return [line.rstrip() for line in written.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [40, 80])
def test_points_that_differ_at_their_ends_stay_apart(width: int) -> None:
    """Nothing is cut off: without room for columns, a row is a block with the columns' names."""
    lines = _shown(width)
    text = " ".join(" ".join(lines).split())

    assert "partition=zero_topo·ranks=8" in lines
    assert "partition=zero_topo·ranks=16" in lines
    assert (
        "metric tokens_per_s · tonight 1.234e+04 · change [95 %] -10 % [-12 %, -8 %] · "
        "mark worse · confidence > 99.9 %"
    ) in text
    assert text.endswith("mark same After the table.")  # an empty cell is left out
    assert "…" not in text
    assert max(map(len, lines)) <= width


def test_on_a_wide_terminal_it_is_a_table() -> None:
    """A row of the table is a line."""
    lines = _shown(140)

    (row,) = [line for line in lines if "ranks=16" in line]
    assert row.split() == [
        *("partition=zero_topo·ranks=16", "tokens_per_s", "1.234e+04"),
        *("-0.1", "%", "[-2", "%,", "1.8", "%]", "same"),
    ]
