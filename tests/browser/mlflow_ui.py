"""The pages of MLflow's interface that compare runs. Seen in MLflow 3.17.2."""

from collections.abc import Mapping

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as Timeout

_ASSISTANT_MS = 10_000
_CURVES = """() => [...new Set(document.querySelector('.js-plotly-plot').data
    .filter(one => one.y.length > 1).map(one => one.name))].sort()"""
"""Names of the curves of the first chart that Plotly has drawn."""
_LINES = """canvas => {
    const {width, height} = canvas;
    if (!width || !height) return 0;
    const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    const isDrawn = (x, y) => y >= 0 && pixels[4 * (y * width + x) + 3] > 0;
    let most = 0;
    for (let x = 0; x < width; x++) {
        let number = 0;
        for (let y = 0; y < height; y++) number += isDrawn(x, y) && !isDrawn(x, y - 1);
        most = Math.max(most, number);
    }
    return most;
}"""
"""Most places at which lines go through a column of a picture: all, where none crosses another."""


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


def parallel_axes(page: Page) -> list[str]:
    """Return the names of the axes of the parallel coordinates, once they are drawn.

    Args:
        page: The page.
    """
    expect(page.locator(".parcoords canvas.foreground")).to_be_visible()
    return page.locator(".parcoords .label").all_text_contents()


def parallel_lines(page: Page) -> int:
    """Count the lines that are drawn in the parallel coordinates.

    Args:
        page: The page.
    """
    lines: int = page.locator(".parcoords canvas.foreground").evaluate(_LINES)
    return lines


def paint_runs(page: Page, colours: Mapping[str, str]) -> None:
    """Choose the colours of runs, which are MLflow's by chance: two may be nearly the same.

    Args:
        page: The page.
        colours: Beginning of a run's name -> its colour, as #rrggbb.
    """
    for row in page.get_by_role("row").filter(has=page.locator("input[type=color]")).all():
        named = [colour for name, colour in colours.items() if name in row.inner_text()]
        if named:  # the field itself is hidden behind a dot
            row.locator("input[type=color]").fill(named[0], force=True)


def widen_chart(page: Page) -> None:
    """Draw the corner of the first chart to the right until it has the page's width.

    Args:
        page: The page.
    """
    corner = page.get_by_test_id("draggable-card-resize-handle").first.bounding_box()
    assert corner is not None
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 200, y + 30, steps=8)
    page.mouse.move(x + 570, y + 60, steps=8)
    page.mouse.up()
    page.mouse.move(x, 0)
