"""The orchestrator, a real process, is killed again and again while it submits and follows jobs.

Slurm is a fake, made of real programs; the jobs really run, in the real wrapper. One sbatch call in
five is accepted and then fails as if its answer was lost.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.served import BIN_DIR, FakeCluster

_ORCHESTRATOR = Path(__file__).with_name("orchestrator.py")
_ROOT = Path(__file__).parents[2]

_LOSING_SBATCH = """#!/bin/bash
if (( RANDOM % 5 == 0 )); then
    "{sbatch}" "$@" >/dev/null
    sleep 0.3
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    exit 1
fi
exec "{sbatch}" "$@"
"""


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A directory with a short path, for the fake's socket."""
    directory = Path(tempfile.mkdtemp(prefix="kills-"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("num_kills", "num_jobs"), [(5, 10), pytest.param(200, 150, marks=pytest.mark.slow)]
)
def test_no_job_is_lost_and_none_runs_twice(workplace: Path, num_kills: int, num_jobs: int) -> None:
    """However often the orchestrator is killed, every job has run once when its last one ends."""
    rng = random.Random(num_kills)
    shims = workplace / "bin"
    shims.mkdir()
    (shims / "sbatch").write_text(_LOSING_SBATCH.format(sbatch=BIN_DIR / "sbatch"))
    (shims / "sbatch").chmod(0o755)
    num_killed_at_work = 0
    with FakeCluster(workplace) as cluster:
        environment = {**os.environ, **cluster.environment, "PYTHONPATH": str(_ROOT)}
        environment["PATH"] = f"{shims}:{environment['PATH']}"
        command = [sys.executable, str(_ORCHESTRATOR), str(workplace / "study"), str(num_jobs)]
        for _ in range(num_kills):
            before = len(cluster.calls())
            with subprocess.Popen(command, env=environment, cwd=workplace) as process:
                deadline = time.monotonic() + 20
                while len(cluster.calls()) == before and time.monotonic() < deadline:
                    time.sleep(0.02)
                time.sleep(rng.uniform(0.0, 0.6))
                num_killed_at_work += process.poll() is None
                process.kill()

        last = subprocess.run(command, env=environment, cwd=workplace, timeout=600, check=False)

        submissions = sum(call.command == "sbatch" for call in cluster.calls())
    ran = [
        (run / "ran").read_text().splitlines() if (run / "ran").exists() else []
        for run in sorted((workplace / "study" / "points").iterdir())
    ]
    sys.stdout.write(
        f"{num_killed_at_work} of {num_kills} kills at work, {num_jobs} jobs, {submissions} calls "
        f"of sbatch; lost {sum(not one for one in ran)}, twice {sum(len(o) > 1 for o in ran)}\n"
    )
    assert last.returncode == 0
    assert [len(one) for one in ran] == [1] * num_jobs
    assert num_killed_at_work >= num_kills // 2
