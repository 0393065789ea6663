"""Pictures for the documents, taken by the tests as they go: small PNG files."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

_NUM_COLOURS = 64  # of an interface with flat areas; a quarter of the bytes


@dataclass(frozen=True)
class Camera:
    """Takes pictures, or none.

    Attributes:
        directory: Where they are written; None for nowhere.
    """

    directory: Path | None

    def take(self, page: Page, name: str) -> None:
        """Take a picture of what a page shows.

        Args:
            page: The page.
            name: Of the file, without suffix.

        Raises:
            OSError: It cannot be written.
        """
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as image:
            flat = image.convert("RGB").quantize(_NUM_COLOURS, dither=Image.Dither.NONE)
        flat.save(self.directory / f"{name}.png", optimize=True)
