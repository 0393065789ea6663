"""Benchmarks take minutes and an idle machine, so they run only when asked for.

pytest tests/benchmarks --benchmark-only
"""

from collections.abc import Callable
from pathlib import Path

import pytest

_LINES: list[str] = []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this directory out of a plain ``pytest``."""
    del collection_path
    return None if config.getoption("benchmark_only") else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the benchmarks found beside the table of times."""
    for line in _LINES:
        terminalreporter.write_line(line)


@pytest.fixture
def report() -> Callable[[str], None]:
    """A function that adds a line to the summary."""
    return _LINES.append
