"""Where there is no browser, its tests say how to get one, in one line."""

import pytest

from tests.browser.availability import judge


@pytest.mark.parametrize("is_required", [False, True])
def test_a_browser_runs_the_tests(*, is_required: bool) -> None:
    """With a browser the tests run, required or not."""
    verdict = judge("/usr/bin/chromium", is_required=is_required)

    assert verdict.runs
    assert not verdict.is_failure


@pytest.mark.parametrize("is_required", [False, True])
def test_without_a_browser_one_line_says_how_to_get_it(*, is_required: bool) -> None:
    """The line names the command; it is a failure only where a browser is required."""
    verdict = judge(None, is_required=is_required)

    assert not verdict.runs
    assert verdict.is_failure == is_required
    assert "make browser-packages" in verdict.message
    assert "\n" not in verdict.message
