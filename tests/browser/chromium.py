"""Chromium without a window, which knows this machine alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    expect,
    sync_playwright,
)

SIZE = (1280, 800)
"""Of the window, in pixels."""
WAIT_MS = 60_000
"""How long anything may take to be shown; a busy machine takes its time."""
_ARGUMENTS = (
    "--no-sandbox",  # which needs user namespaces, and root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # 64 MB in a container are too few
    # Both interfaces ask hosts of their makers; here nothing of the sort is waited for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@contextmanager
def running(program: str) -> Iterator[Browser]:
    """Start a browser.

    Args:
        program: Its path.

    Yields:
        The browser, without a page; it is closed at the end.
    """
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def visited(browser: Browser, directory: Path) -> Iterator[Page]:
    """Open a page as a person who has not been here before.

    Args:
        browser: The browser.
        directory: Where ``page.png`` and ``console.txt`` are written if what is done with the page
            fails; the failure says so.

    Yields:
        The page.
    """
    width, height = SIZE
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(WAIT_MS)
    console: list[str] = []
    context.on("console", lambda message: console.append(_told(message)))
    context.on("weberror", lambda error: console.append(f"error: {error.error}"))
    try:
        yield context.new_page()
    except BaseException as failure:
        failure.add_note(_record(context, console, directory))
        raise
    finally:
        context.close()


def _told(message: ConsoleMessage) -> str:
    return f"{message.type}: {message.text} ({message.location['url']})"


def _record(context: BrowserContext, console: Sequence[str], directory: Path) -> str:
    """Keep what is to be seen; return where it is."""
    text = "\n".join(console)
    (directory / "console.txt").write_text(text, encoding="utf-8")
    told = [f"the console is in {directory / 'console.txt'}; its end:", text[-2000:]]
    for number, page in enumerate(context.pages):
        path = directory / f"page{number or ''}.png"
        try:
            page.screenshot(path=path)
        except Error as error:  # a page that has crashed
            told.append(f"no picture of {page.url}: {error.message}")
        else:
            told.append(f"{page.url} is in {path}")
    return "\n".join(told)
