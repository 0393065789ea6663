"""Pictures for the documents, taken by the tests as they go: small PNG files."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

_TRIES, _BETWEEN_MS = 40, 500
_NUM_COLOURS = 256  # of an interface with flat areas; a third of the bytes


@dataclass(frozen=True)
class Camera:
    """Takes pictures, or none.

    Attributes:
        directory: Where they are written; None for nowhere.
    """

    directory: Path | None

    def take(self, page: Page, name: str, *, size: tuple[int, int] | None = None) -> None:
        """Take a picture of what a page shows.

        Args:
            page: The page.
            name: Of the file, without suffix.
            size: Of the window, in pixels; None for that which it has.

        Raises:
            OSError: It cannot be written.
        """
        if self.directory is None:
            return
        if size is not None:
            page.set_viewport_size({"width": size[0], "height": size[1]})
        self.directory.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(_still(page))) as image:
            flat = image.convert("RGB").quantize(
                _NUM_COLOURS,
                # Median cut gives thin lines of different colours the same one.
                method=Image.Quantize.FASTOCTREE,
                dither=Image.Dither.NONE,
            )
        flat.save(self.directory / f"{name}.png", optimize=True)


def _still(page: Page) -> bytes:
    """Return a picture of what no longer changes: graphs and charts are drawn step by step."""
    before = b""
    for _ in range(_TRIES):
        now = page.screenshot(animations="disabled")
        if now == before:
            break
        before = now
        page.wait_for_timeout(_BETWEEN_MS)
    return before
