"""Markdown on a terminal, with tables that lose nothing where there are few columns."""

from typing import ClassVar, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_INDENT = 2
_BETWEEN = " · "
_CUT = "…"
"""What Rich puts in the place of what it cuts off."""


class _Table(TableElement):
    """A table, or, where its words have no room in columns, its rows one below the other.

    Rich cuts off what does not fit, so that names which differ at their ends look the same.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names, *rows = self._texts()
        (drawn,) = super().__rich_console__(console, options)
        lines = console.render_lines(cast("Table", drawn), options)
        shown = "".join(segment.text for line in lines for segment in line)
        if shown.count(_CUT) == sum(cell.count(_CUT) for row in (names, *rows) for cell in row):
            yield drawn
            return
        for row in rows:
            yield Text(row[0], "bold")
            told = [
                Text.assemble((f"{name} ", "dim"), cell)
                for name, cell in zip(names[1:], row[1:], strict=True)
                if cell
            ]
            yield Padding(Text(_BETWEEN).join(told), (0, 0, 0, _INDENT))

    def _texts(self) -> list[list[str]]:
        """Return the rows, the names of the columns first."""
        head = [self.header.row] if self.header is not None and self.header.row is not None else []
        rows = [*head, *(self.body.rows if self.body is not None else [])]
        return [[cell.content.plain for cell in row.cells] for row in rows]


class TerminalMarkdown(Markdown):
    """Markdown whose tables are readable on 80 columns."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = Markdown.elements | {
        "table_open": _Table
    }
