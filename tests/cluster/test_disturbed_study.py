"""A study on a real cluster while everything around it fails, compared with a quiet one.

Takes minutes: runs with ``make proof-slurm``.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.cursor import read_cursor
from tests.cluster.prefect_server import PrefectServer
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions
from tests.cluster.study_process import logs, only_study, running, user_environment
from tests.integration.mlflow_server import MlflowServer, metric_rows

pytestmark = pytest.mark.slow

_LIMIT_S = 1500

# Longer than one round of all disturbances on two fast cores, with a checkpoint every second or so.
STUDY = """
experiment:
  workers: 20
  rounds: 300000
  evaluate_every: 2500
  checkpoint_every: 1000
  model: {name: quadratic, centres: CENTRES, noise: 1.0}
  algorithm: {collect: 5, server_lr: 0.5}
  worker: {lr: 0.01}
  arrivals: {kind: uniform, max_delay: 10}
  dtype: float64
grid:
  seed: [0, 1, 2, 3]
"""
_SLURM = """
launcher:
  kind: slurm
  partition: preempt
  time_limit: "20"
  signal_before_s: 60
  cpus_per_task: 4
"""
_INTRUDER = (
    "#!/bin/bash\n#SBATCH -p batch\n#SBATCH --exclusive\n#SBATCH -N1\n#SBATCH -t 1\nsleep 3\n"
)


@pytest.fixture
def disturbed_cluster() -> Iterator[SlurmCluster]:
    """A cluster with accounting, on which lost nodes are noticed soon."""
    options = ClusterOptions(
        accounting=True, kill_wait_s=5, message_timeout_s=5, node_timeout_s=6, cpus=4
    )
    with running_cluster(options) as cluster:
        yield cluster


def test_a_disturbed_study_ends_like_a_quiet_one(
    tmp_path: Path, disturbed_cluster: SlurmCluster
) -> None:
    """Controller killed, node cut off, preemptions, MLflow down, Prefect restarted: same bits."""
    cluster = disturbed_cluster
    study = STUDY.replace("CENTRES", str(list(range(20))))
    (tmp_path / "quiet.yaml").write_text(study)
    (tmp_path / "disturbed.yaml").write_text(_SLURM + study)
    with ExitStack() as stack:
        mlflow, prefect = MlflowServer(tmp_path), PrefectServer(tmp_path)
        for server in (mlflow, prefect):
            server.start()
            stack.callback(server.stop)
        environment = user_environment(cluster, tmp_path, prefect_api=prefect.api)
        environment |= {"MLFLOW_TRACKING_URI": mlflow.uri}
        with running(["run", "quiet.yaml"], tmp_path, environment) as quiet:
            assert quiet.wait(_LIMIT_S) == 0, logs(tmp_path)
        disturber = _Disturber(cluster, mlflow, prefect, tmp_path)

        with running(["run", "disturbed.yaml"], tmp_path, environment) as disturbed:
            disturber.start()
            try:
                code = disturbed.wait(_LIMIT_S)
            finally:
                disturber.stop()

        assert code == 0, logs(tmp_path)
        assert {"controller", "node", "preemption", "mlflow", "prefect"} <= set(disturber.done)
        expected, found = (only_study(tmp_path, name) for name in ("quiet", "disturbed"))
        attempts = [len(run.attempts()) for run in found.points()]
        sys.stdout.write(f"disturbances {dict(disturber.done)}, attempts {attempts}\n")
        assert sum(attempts) > len(attempts)
        for before, after in zip(expected.points(), found.points(), strict=True):
            assert after.model.read_bytes() == before.model.read_bytes()
            _assert_each_line_once(after, mlflow)


def _assert_each_line_once(run: RunDirectory, mlflow: MlflowServer) -> None:
    """Every metric of every journal line is one row in MLflow's database."""
    lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(len(lines)))
    wanted = Counter((name, line["step"]) for line in lines for name in line["metrics"])
    rows = metric_rows(mlflow.database, read_cursor(run, mlflow.uri).run_id)
    sent = Counter(
        (key, step) for key, step, _, _ in rows if not key.startswith(("result/", "cost/"))
    )
    assert sent == wanted


class _Disturber(threading.Thread):
    """Breaks one thing after the other, until it is stopped.

    Attributes:
        done: What was broken, and how often.
    """

    def __init__(
        self, cluster: SlurmCluster, mlflow: MlflowServer, prefect: PrefectServer, directory: Path
    ) -> None:
        super().__init__(daemon=True)
        self.done: Counter[str] = Counter()
        self._cluster, self._mlflow, self._prefect = cluster, mlflow, prefect
        self._intruder = directory / "intruder.sh"
        self._intruder.write_text(_INTRUDER)
        self._over = threading.Event()

    def run(self) -> None:
        """Break things in turn; the first after the jobs have begun."""
        turns: list[tuple[str, Callable[[], None]]] = [
            ("preemption", self._preempt),
            ("node", self._cut_node),
            ("controller", self._crash_controller),
            ("prefect", self._restart_prefect),
            ("preemption", self._preempt),
            ("mlflow", self._stop_mlflow),
        ]
        self._over.wait(45)
        while not self._over.is_set():
            for name, disturb in turns:
                if self._over.is_set():
                    return
                disturb()
                self.done[name] += 1
                self._over.wait(15)

    def stop(self) -> None:
        """Break no more, and wait for the last repair."""
        self._over.set()
        self.join(120)

    def _preempt(self) -> None:
        for _ in range(2):
            self._cluster.run(["sbatch", "-o", "/dev/null", str(self._intruder)], check=False)

    def _crash_controller(self) -> None:
        self._cluster.restart_controller(crash=True, down_s=5)

    def _stop_mlflow(self) -> None:
        self._mlflow.stop()
        self._over.wait(15)
        self._mlflow.start()

    def _restart_prefect(self) -> None:
        self._prefect.stop()
        self._prefect.start()

    def _cut_node(self) -> None:
        listing = self._cluster.run(["squeue", "-h", "-t", "RUNNING", "-o", "%N"], check=False)
        nodes = listing.stdout.split()
        if not nodes:
            return
        self._cluster.cut_node(nodes[0], now=True)
        time.sleep(10)
        self._cluster.revive_node(nodes[0])
