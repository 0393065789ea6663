"""One browser, and one of each server, for all tests of a module; pictures when asked for."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tasks.services.state import Services, find_services
from tests.browser import availability, chromium
from tests.browser.camera import Camera
from tests.browser.services import started

_VERDICT = availability.here()

Visit = Callable[[], AbstractContextManager[Page]]
"""Opens a page as a person who has not been here before."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--screenshots`` and ``--services``."""
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="write the pictures of the documents there"
    )
    parser.addoption(
        "--services",
        type=Path,
        metavar="DIR",
        help="use what `watershed up --data DIR` has started, and start nothing",
    )


def pytest_runtest_setup() -> None:
    """Skip, or fail, where there is no browser."""
    _VERDICT.carry_out()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a browser; not longer than a module, as its event loop is in the way of others."""
    program = availability.program()
    assert program is not None
    with chromium.running(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the servers keep their data, and flows their studies."""
    directory: Path | None = request.config.getoption("--services")
    return directory or tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def services(request: pytest.FixtureRequest, data: Path, used_home: Path) -> Iterator[Services]:
    """Return the addresses of all servers, with a worker that runs flows.

    Prefect's database is there already: `up` makes one in tests/integration/test_up.py.
    """
    if request.config.getoption("--services"):
        running = find_services(data)
        assert running is not None, f"nothing is up in {data}"
        yield running
        return
    shutil.copytree(used_home, data / "prefect")
    with started(data) as services:
        yield services


@pytest.fixture(scope="module")
def visit(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """Return what opens a page, and keeps a picture and the console of one where a test fails."""
    return lambda: chromium.visited(browser, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def camera(request: pytest.FixtureRequest) -> Camera:
    """Return what takes the pictures of the documents if they are asked for."""
    return Camera(request.config.getoption("--screenshots"))
