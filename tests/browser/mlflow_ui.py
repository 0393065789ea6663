"""The page of MLflow's interface that compares runs. Seen in MLflow 3.17.2."""

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as Timeout

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


def search_charts(page: Page, metric: str) -> None:
    """Leave the chart of one metric alone, and wait until it is drawn.

    Args:
        page: The page.
        metric: Name of the metric.
    """
    page.get_by_role("searchbox", name="Search metric charts").fill(metric)
    headings = page.get_by_role("main").get_by_role("heading", level=4)
    expect(headings).to_have_text([metric])
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
    question = page.get_by_role("textbox", name="Ask a question")
    try:
        question.wait_for(timeout=_ASSISTANT_MS)
    except Timeout:  # it opens on the machine of the server only
        return
    page.get_by_role("button", name="Close", exact=True).last.click()
    expect(question).to_be_hidden()
