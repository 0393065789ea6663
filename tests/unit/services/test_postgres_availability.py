"""Where there is no PostgreSQL, its test says how to get it, in one line."""

import pytest

from tests.integration.postgres_server import judge


@pytest.mark.parametrize("is_required", [False, True])
def test_a_database_server_runs_the_test(*, is_required: bool) -> None:
    """With PostgreSQL the test runs, required or not."""
    verdict = judge(is_installed=True, is_required=is_required)

    assert verdict.runs
    assert not verdict.is_failure


@pytest.mark.parametrize("is_required", [False, True])
def test_without_a_database_server_one_line_says_how_to_get_it(*, is_required: bool) -> None:
    """The line names the command; it is a failure only where PostgreSQL is required."""
    verdict = judge(is_installed=False, is_required=is_required)

    assert not verdict.runs
    assert verdict.is_failure == is_required
    assert "make database-packages" in verdict.message
    assert "\n" not in verdict.message
