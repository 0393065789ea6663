"""What all tests share: texts that are compared literally, proofs that run when asked for."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.ranks import RankPool

# On a busy machine an example may take any time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_FIRST = {"browser", "cluster", "integration", "zero"}
"""Directories of the longest files: begun last, one of them would keep a single process busy."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden`` and ``--slow``."""
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew; read the diff"
    )
    parser.addoption("--slow", action="store_true", help="run only the tests that take minutes")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test: more than cores, as many tests wait for Slurm and servers."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests marked slow if they are asked for, else all others."""
    wanted = bool(config.getoption("--slow"))
    others = [item for item in items if bool(item.get_closest_marker("slow")) is not wanted]
    items[:] = [item for item in items if bool(item.get_closest_marker("slow")) is wanted]
    items.sort(key=lambda item: not set(item.path.parts) & _FIRST)
    config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Give the process its handlers back: a job takes them for good, and children inherit."""
    signums = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM)
    before = {signum: signal.getsignal(signum) for signum in signums}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return ``check_golden(name, text)``: the text is that of the file in ``golden/``."""
    directory = request.path.parent / "golden"

    def check(name: str, text: str) -> None:
        path = directory / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], RankPool]]:
    """Return ``ranks(n)``: a world of n gloo ranks, which lives until the session ends."""
    pools: dict[int, RankPool] = {}

    def pool(num_ranks: int) -> RankPool:
        return pools.setdefault(num_ranks, RankPool(num_ranks))

    yield pool
    for running in pools.values():
        running.close()
