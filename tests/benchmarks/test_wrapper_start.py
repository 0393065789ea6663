"""How long job.sh and its wrapper keep a job waiting on its node."""

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

from configs.launchers import SlurmResources
from tasks.slurm.batches import write_batch
from tasks.slurm.plan import Batch, JobPlan

ROOT = Path(__file__).parents[2]
USER_CODE = "import os, sys; open(os.path.dirname(sys.argv[1]) + '/begun', 'w').close()"


@pytest.fixture
def code_dir(tmp_path: Path) -> Path:
    """Compiled code in a directory of its own, as the nodes have it; its user code says so."""
    directory = tmp_path / "code"
    shutil.copytree(ROOT / "tasks" / "runtime", directory / "tasks" / "runtime")
    shutil.copy(ROOT / "tasks" / "__init__.py", directory / "tasks")
    (directory / "user").mkdir()
    (directory / "user" / "job.py").write_text(USER_CODE)
    compileall.compile_dir(directory, quiet=1)
    return directory


def _script(run_dir: Path, code_dir: Path) -> Path:
    """Make a run directory with the script that Slurm would be given."""
    run_dir.mkdir()
    (run_dir / "job.json").write_text("{}")
    os.mkfifo(run_dir / "begun")
    plan = JobPlan(
        name="user",
        module="user.job",
        run_dir=run_dir,
        resources=SlurmResources(),
        code_dir=code_dir,
        python=sys.executable,
    )
    return write_batch(Batch(mode="single", jobs=(plan,), directory=run_dir), submission=1)


def test_from_the_start_to_user_code(
    benchmark: BenchmarkFixture,
    report: Callable[[str], None],
    tmp_path: Path,
    code_dir: Path,
) -> None:
    """100 ms pass at most, bash and the start of a second Python for the user's code included."""
    numbers = count()
    jobs: list[subprocess.Popen[bytes]] = []

    def prepare() -> tuple[tuple[Path], dict[str, object]]:
        return (_script(tmp_path / str(next(numbers)), code_dir),), {}

    def start(script: Path) -> None:
        jobs.append(subprocess.Popen(["/bin/bash", script]))
        with (script.parent / "begun").open():  # opens when user code does
            pass

    def wait(_: Path) -> None:
        jobs[-1].wait()

    benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin's
        start, setup=prepare, teardown=wait, rounds=30, warmup_rounds=3
    )

    assert benchmark.stats is not None
    stats = benchmark.stats.stats
    report(
        f"job.sh to user code: least {stats.min * 1e3:.0f} ms, median {stats.median * 1e3:.0f}, "
        f"max {stats.max * 1e3:.0f}"
    )
    assert [job.returncode for job in jobs] == [0] * len(jobs)
    assert stats.median < 0.1
