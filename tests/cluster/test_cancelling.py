"""Cancelling a study cancels its jobs, queued or running, soon, and no others."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.steps.flow_record import read_flow_record
from tests.cluster.prefect_server import PrefectServer, ask_prefect
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import logs, only_study, running, user_environment

_SOON_S = 10.0

# Three endless points of which one fits: it needs all CPUs of all nodes that it may use.
STUDY = """
launcher: {kind: slurm, partition: batch, time_limit: "5", pack: single, exclusive: true,
           nodelist: node01}
experiment:
  workers: 2
  rounds: 100000000
  evaluate_every: 1000000
  model: {name: quadratic, centres: [0, 100]}
  algorithm: {collect: 2}
grid:
  seed: [0, 1, 2]
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Iterator[PrefectServer]:
    """A Prefect server."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"), used_home)
    server.start()
    yield server
    server.stop()


def _wait_for(what: Callable[[], bool], limit_s: float) -> float:
    """Wait until something is so; return the seconds that it took."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > limit_s:
            return limit_s
        time.sleep(0.1)
    return time.monotonic() - began


def _by_ctrl_c(process: "subprocess.Popen[bytes]", directory: Path, api: str) -> None:
    del directory, api
    process.send_signal(signal.SIGINT)


def _in_prefect(process: "subprocess.Popen[bytes]", directory: Path, api: str) -> None:
    del process
    record = read_flow_record(only_study(directory, "endless").path)
    assert record is not None
    body = {"state": {"type": "CANCELLING"}, "force": False}
    ask_prefect(api, f"/flow_runs/{record.flow_run_id}/set_state", body)


@pytest.mark.parametrize("stop", [pytest.param(_by_ctrl_c, marks=pytest.mark.slow), _in_prefect])
def test_a_cancelled_study_leaves_no_job(
    tmp_path: Path,
    cluster: SlurmCluster,
    prefect: PrefectServer,
    stop: Callable[["subprocess.Popen[bytes]", Path, str], None],
) -> None:
    """One job runs and two wait; within ten seconds none is left but another user's own."""
    (tmp_path / "endless.yaml").write_text(STUDY)
    environment = user_environment(cluster, tmp_path, prefect_api=prefect.api)
    other = cluster.run(
        ["sbatch", "--parsable", "-o", "/dev/null", "-w", "node02", "--wrap", "sleep 300"]
    )

    def jobs(state: str = "all") -> list[str]:
        return cluster.run(["squeue", "-h", "-t", state, "-o", "%A"]).stdout.split()

    with running(["run", "endless.yaml"], tmp_path, environment) as process:
        started_s = _wait_for(lambda: len(jobs("R")) == 2 and len(jobs("PD")) == 2, 90)
        assert started_s < 90, logs(tmp_path)

        stop(process, tmp_path, prefect.api)
        stopped_s = _wait_for(lambda: jobs("PD,R,CG") == [other.stdout.strip()], 30)
        code = process.wait(60)

    assert stopped_s < _SOON_S, logs(tmp_path)
    assert code in {1, 130}, logs(tmp_path)
    results = [run.read_result() for run in only_study(tmp_path, "endless").points()]
    assert {result.status if result else "none" for result in results} <= {"interrupted", "none"}


@pytest.mark.slow
def test_a_flow_that_has_to_end_leaves_its_jobs_to_the_next(
    tmp_path: Path, cluster: SlurmCluster, prefect: PrefectServer
) -> None:
    """SIGTERM without a wish to cancel, as of a worker that shuts down: the jobs go on."""
    (tmp_path / "endless.yaml").write_text(STUDY)
    environment = user_environment(cluster, tmp_path, prefect_api=prefect.api)

    def jobs(state: str) -> list[str]:
        return cluster.run(["squeue", "-h", "-t", state, "-o", "%A"]).stdout.split()

    with running(["run", "endless.yaml"], tmp_path, environment) as process:
        started_s = _wait_for(lambda: len(jobs("R")) == 1 and len(jobs("PD")) == 2, 90)
        assert started_s < 90, logs(tmp_path)
        before = sorted(jobs("R,PD"))
        study = only_study(tmp_path, "endless")
        os.kill(int((study.path / ".lock").read_text().split()[-1]), signal.SIGTERM)
        process.wait(60)
    left = sorted(jobs("R,PD"))
    log = study.path / "flow.log"
    told = log.read_text()

    with running(["resume", "endless"], tmp_path, environment):
        following_s = _wait_for(
            lambda: f"job {before[0]} on batch: RUNNING on node01" in log.read_text()[len(told) :],
            90,
        )
        followed = sorted(jobs("R,PD"))
        os.kill(int((study.path / ".lock").read_text().split()[-1]), signal.SIGKILL)

    assert left == before, logs(tmp_path)
    assert "the jobs of Slurm go on. Retry, or watershed resume" in told
    assert following_s < 90, logs(tmp_path)
    assert followed == before
