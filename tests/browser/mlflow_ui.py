"""The page of MLflow's interface that compares runs. Seen in MLflow 3.17.2."""

from playwright.sync_api import Locator, Page, expect

_DRAWN = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot =>
    [...new Set(plot.data.filter(one => one.y.length > 1).map(one => one.name))].sort())"""
"""Names of the curves of each chart that Plotly has drawn."""


def run_names(page: Page) -> Locator:
    """Return the names of the runs in the list beside the charts, which is their legend.

    Args:
        page: The page.
    """
    return page.get_by_role("grid").get_by_role("link")


def charts(page: Page) -> list[list[str]]:
    """Wait until there are charts, and return the names of the curves in each that is in sight.

    Args:
        page: The page.
    """
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    names: list[list[str]] = page.evaluate(_DRAWN)
    return names


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens on a first visit; the charts have no room beside it.

    Args:
        page: The page.
    """
    heading = page.get_by_text("MLflow Assistant", exact=True)
    if heading.is_visible():
        page.get_by_role("button", name="Close").last.click()
        expect(heading).to_be_hidden()
