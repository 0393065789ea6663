"""What all tests share: texts that are compared literally, proofs that run when asked for."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cluster.prefect_server import use_home
from tests.once import made_once
from tests.ranks import RankPool

# On a busy machine an example may take any time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_WAITING = {"browser", "cluster", "integration"}
"""Directories of tests that wait, for Slurm and servers, more than they compute."""
_WAITING_SHARE = 0.8
"""In so much of the time they are begun: what is begun last should be short."""
_LONG = {"proof", "zero"}
"""Directories of the longest files that compute."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden`` and ``--slow``."""
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew; read the diff"
    )
    parser.addoption("--slow", action="store_true", help="run only the tests that take minutes")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test: more than cores, as many tests wait for Slurm and servers."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests marked slow if they are asked for, else all others."""
    wanted = bool(config.getoption("--slow"))
    others = [item for item in items if bool(item.get_closest_marker("slow")) is not wanted]
    items[:] = [item for item in items if bool(item.get_closest_marker("slow")) is wanted]
    items[:] = in_good_order(items)
    config.hook.pytest_deselected(items=others)


def in_good_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Mix the files that wait with those that compute, so that neither is done by all at once.

    Processes take the files in this order, one after the other.

    Args:
        items: Tests, those of a file together.
    """
    files: tuple[dict[Path, list[pytest.Item]], ...] = ({}, {})
    for item in items:
        is_waiting = bool(set(item.path.parts) & _WAITING)
        files[is_waiting].setdefault(item.path, []).append(item)
    computing = sorted(files[False], key=lambda path: not set(path.parts) & _LONG)
    placed = [
        ((number + 0.5) / len(paths) * share, files[is_waiting][path])
        for is_waiting, paths, share in (
            (False, computing, 1.0),
            (True, list(files[True]), _WAITING_SHARE),
        )
        for number, path in enumerate(paths)
    ]
    return [test for _, tests in sorted(placed, key=lambda one: one[0]) for test in tests]


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


@pytest.fixture(scope="session")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PREFECT_HOME to copy, with a database that nothing has been written to."""
    return made_once(tmp_path_factory, "used-home", use_home) / "prefect"
