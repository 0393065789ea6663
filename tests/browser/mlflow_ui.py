"""The page of MLflow's interface that compares runs. Seen in MLflow 3.17.2."""

from playwright.sync_api import Locator, Page, TimeoutError, expect

_ASSISTANT_MS = 10_000
_CURVES = """() => [...new Set(document.querySelector('.js-plotly-plot').data
    .filter(one => one.y.length > 1).map(one => one.name))].sort()"""
"""Names of the curves of the first chart that Plotly has drawn."""


def run_names(page: Page) -> Locator:
    """Return the names of the runs in the list beside the charts, which is their legend.

    Args:
        page: The page.
    """
    return page.get_by_role("grid").get_by_role("link")


def search_charts(page: Page, words: str) -> None:
    """Leave those charts alone whose metric has some words in its name, and wait for one.

    Args:
        page: The page.
        words: Part of the name of a metric.
    """
    page.get_by_placeholder("Search metric charts").fill(words)
    expect(page.get_by_role("heading", name=words).or_(page.get_by_text(words)).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def curves(page: Page) -> list[str]:
    """Return the names of the curves that are drawn in the first chart.

    Args:
        page: The page.
    """
    names: list[str] = page.evaluate(_CURVES)
    return names


def close_assistant(page: Page) -> None:
    """Close the panel that opens at a first visit; beside it the charts have no room.

    Args:
        page: The page.
    """
    heading = page.get_by_text("MLflow Assistant", exact=True)
    try:
        heading.wait_for(timeout=_ASSISTANT_MS)
    except TimeoutError:  # it opens on the machine of the server only
        return
    page.get_by_role("button", name="Close").last.click()
    expect(heading).to_be_hidden()
