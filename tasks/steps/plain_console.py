"""A terminal that shows texts of anybody: output of jobs, names and records on shared disks."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tasks.runtime.plain_text import plain


class PlainConsole(Console):
    """A console on which no text can command the terminal, whoever has written it."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render an object; what its texts hold of control characters are blanks.

        Args:
            renderable: What rich can show.
            options: How.

        Yields:
            Pieces of text with their style, and the commands that rich itself gives.
        """
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)
