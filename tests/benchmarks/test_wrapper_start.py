"""How long the wrapper keeps a job waiting on its node."""

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).parents[2]
USER_CODE = "import os, sys; open(os.path.dirname(sys.argv[1]) + '/begun', 'w').close()"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Compiled code in a directory of its own, as the nodes have it."""
    shutil.copytree(ROOT / "tasks" / "runtime", tmp_path / "code" / "tasks" / "runtime")
    shutil.copy(ROOT / "tasks" / "__init__.py", tmp_path / "code" / "tasks")
    compileall.compile_dir(tmp_path / "code", quiet=1)
    return os.environ | {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}


def test_from_the_start_to_user_code(
    benchmark: BenchmarkFixture,
    report: Callable[[str], None],
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    """100 ms pass at most, the start of a second Python for the user's code included."""
    numbers = count()
    wrappers: list[subprocess.Popen[bytes]] = []

    def prepare() -> tuple[tuple[Path], dict[str, object]]:
        run_dir = tmp_path / str(next(numbers))
        run_dir.mkdir()
        (run_dir / "job.json").write_text("{}")
        os.mkfifo(run_dir / "begun")
        return (run_dir,), {}

    def start(run_dir: Path) -> None:
        wrapper = [sys.executable, "-S", "-m", "tasks.runtime.wrapper", "--submission", "1"]
        command = [*wrapper, "--run", str(run_dir), "--", sys.executable, "-c", USER_CODE]
        wrappers.append(subprocess.Popen(command, env=environment))
        with (run_dir / "begun").open():  # opens when user code does
            pass

    def wait(_: Path) -> None:
        wrappers[-1].wait()

    benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin's
        start, setup=prepare, teardown=wait, rounds=30, warmup_rounds=3
    )

    assert benchmark.stats is not None
    stats = benchmark.stats.stats
    report(f"wrapper to user code: median {stats.median * 1e3:.0f} ms, max {stats.max * 1e3:.0f}")
    assert [wrapper.returncode for wrapper in wrappers] == [0] * len(wrappers)
    assert stats.median < 0.1
