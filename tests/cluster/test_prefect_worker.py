"""The worker of type slurm, with a real Slurm and a real Prefect server (one for this file)."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.cluster.launching import queue, until
from tests.cluster.prefect_server import PrefectServer
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.study_process import user_environment
from tests.cluster.worker_process import SlurmPool, environment_of_job, marks, pid_of

WAITING = "tests.cluster.waiting_flow.waiting"
_LIMIT_S = 120.0
"""For what takes 20 s on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def make_pool(
    cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory, used_home: Path
) -> Iterator[Callable[[str], SlurmPool]]:
    """Makes pools on one Prefect server; all of their user's files are below its directory."""
    home = tmp_path_factory.mktemp("worker")
    server = PrefectServer(home, used_home)
    server.start()
    environment = user_environment(cluster, home, prefect_api=server.api)
    environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with pytest.MonkeyPatch.context() as patch, SyncPrefectClient(server.api) as client:
        patch.setenv("PREFECT_API_URL", server.api)
        yield lambda name: SlurmPool(client, name, environment, home, {"time_limit": "10"})
    server.stop()


@pytest.fixture(scope="module")
def pool(make_pool: Callable[[str], SlurmPool]) -> Iterator[SlurmPool]:
    """A pool with a worker, for all tests that do not kill it."""
    one = make_pool("shared")
    with one.worker():
        yield one


def _busy(cluster: SlurmCluster, seconds: int = 120) -> None:
    """Fill all nodes."""
    for node in cluster.options.node_names:
        command = ["sbatch", "--exclusive", f"--nodelist={node}", "--job-name=other"]
        cluster.run([*command, f"--wrap=sleep {seconds}", "--output=/dev/null"])


def test_a_federated_study_is_a_job(pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster) -> None:
    """Triggered through the API it becomes a job, which submits jobs itself, and completes."""
    study = {
        "name": "tiny",
        "experiment": {"data": "digits", "workers": 10, "rounds": 2, "algorithm": {"collect": 2}},
        "launcher": {"kind": "slurm", "time_limit": "10"},
    }

    flow_run = pool.run(
        "flows.federated.federated_study",
        {"study": study, "runs_dir": str(tmp_path / "runs")},
        time_limit="12",
    )
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    run_dir = pid_of(pool.again(flow_run))
    assert "--time=12" in (run_dir / "job.sh").read_text()
    assert environment_of_job(run_dir)["PREFECT_API_URL"] == os.environ["PREFECT_API_URL"]
    (point,) = (tmp_path / "runs").glob("tiny-*/points/*")
    assert (point / "result.json").exists()
    # Nothing of the outer job's has reached the inner one: it has a time limit and attempts of its
    # own, and another id.
    assert [path.name for path in (point / "attempts").iterdir()] == ["1"]
    assert "--time=10" in (point / "job.sh").read_text()
    ids = [(one / "attempts/1/started.json").read_text() for one in (point, run_dir)]
    assert len({text.partition('"slurm_job"')[2].split(",")[0] for text in ids}) == 2
    until(lambda: queue(cluster) == [], limit_s=60)  # Prefect's process takes its time to end


@pytest.mark.slow
def test_a_queued_flow_run_that_is_cancelled_leaves_the_queue(
    pool: SlurmPool, cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Why it waits is told; within ten seconds of the wish it is gone, and never has run."""
    _busy(cluster)

    flow_run = pool.run(WAITING, {"seconds": 1, "marks": str(tmp_path / "marks")})
    told = pool.until(flow_run, "Queued (Priority", "Queued (Resources", limit_s=_LIMIT_S)
    pool.cancel(flow_run)
    begun_s = time.monotonic()
    until(lambda: set(queue(cluster)) == {"other"}, limit_s=30)
    gone_s = time.monotonic() - begun_s
    pool.until(flow_run, "Cancelled", limit_s=20)

    assert gone_s <= 10
    assert "Nothing has to be done" in (told.message or "")
    assert marks(tmp_path / "marks") == []


@pytest.mark.slow
def test_a_job_that_is_cancelled_at_slurm_is_a_crash_in_words(
    pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster
) -> None:
    """Prefect has not wished it: the flow run has crashed, and its message has the class."""
    flow_run = pool.run(WAITING, {"seconds": 300, "marks": str(tmp_path / "marks")})
    until(lambda: marks(tmp_path / "marks"), limit_s=_LIMIT_S)

    cluster.run(["scancel", *marks(tmp_path / "marks")])
    crashed = pool.until(flow_run, "Crashed")

    assert "[cancelled] Cancelled. Job" in (crashed.message or "")
    assert "Retry the flow run" in (crashed.message or "")


@pytest.mark.slow
def test_a_worker_killed_before_its_report_leaves_no_orphan(
    make_pool: Callable[[str], SlurmPool], tmp_path: Path, cluster: SlurmCluster
) -> None:
    """The next worker adopts the job, reports where it is, and the flow runs once."""
    pool = make_pool("killed")
    flow_run = pool.run(WAITING, {"seconds": 8, "marks": str(tmp_path / "marks")})
    with pool.worker("tests.cluster.dying_worker") as dying:
        assert dying.wait(_LIMIT_S) == -9
    assert not pool.again(flow_run).infrastructure_pid
    assert len(queue(cluster)) == 1

    with pool.worker():
        pool.until(flow_run, "Completed", limit_s=_LIMIT_S)
        until((pid_of(pool.again(flow_run)) / "told").exists)

    assert len(marks(tmp_path / "marks")) == 1
    assert pid_of(pool.again(flow_run)).name == "1"


@pytest.mark.slow
def test_a_preempted_flow_run_goes_on(
    pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster
) -> None:
    """Slurm queues its job again; the same flow run then completes, in another attempt."""
    parameters = {"seconds": 300, "marks": str(tmp_path / "marks"), "again": 1}
    flow_run = pool.run(WAITING, parameters, partition="preempt")
    until(lambda: marks(tmp_path / "marks"), limit_s=_LIMIT_S)

    _busy(cluster, seconds=5)
    until(lambda: len(marks(tmp_path / "marks")) == 2, limit_s=_LIMIT_S)
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    first, second = marks(tmp_path / "marks")
    assert first == second
    attempts = pid_of(pool.again(flow_run)) / "attempts"
    assert len(list(attempts.iterdir())) == 2
    assert "Crashed" not in pool.state_names(flow_run)


@pytest.mark.slow
def test_a_flow_run_on_a_node_that_fails_has_crashed_and_can_be_retried(
    pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster
) -> None:
    """Its class is told; a retry is a job of its own, in a directory of its own."""
    parameters = {"seconds": 300, "marks": str(tmp_path / "marks"), "again": 1}
    flow_run = pool.run(WAITING, parameters, requeue=False, nodelist="node02")
    until(lambda: marks(tmp_path / "marks"), limit_s=_LIMIT_S)

    cluster.kill_node("node02", now=True)
    crashed = pool.until(flow_run, "Crashed", limit_s=_LIMIT_S)
    cluster.revive_node("node02")
    pool.retry(flow_run)
    until(lambda: len(marks(tmp_path / "marks")) == 2, limit_s=_LIMIT_S)
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    assert "[node] Node lost. Slurm lost node02" in (crashed.message or "")
    assert pid_of(pool.again(flow_run)).name == "2"


@pytest.mark.slow
def test_a_running_flow_run_that_is_cancelled_gives_its_node_back(
    pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster
) -> None:
    """The engine in the job may stop by itself first; within ten seconds it has been told to end.

    From there on it has Slurm's KillWait, 5 s here.
    """
    flow_run = pool.run(WAITING, {"seconds": 300, "marks": str(tmp_path / "marks")})
    until(lambda: marks(tmp_path / "marks"), limit_s=_LIMIT_S)

    pool.cancel(flow_run)
    begun_s = time.monotonic()
    until(lambda: queue(cluster) == [], limit_s=30)
    gone_s = time.monotonic() - begun_s
    pool.until(flow_run, "Cancelled", limit_s=20)

    assert gone_s <= 15


@pytest.mark.slow
def test_a_flow_run_that_is_retried_while_its_job_dies_gets_another_job(
    pool: SlurmPool, tmp_path: Path, cluster: SlurmCluster
) -> None:
    """Its first job hears no SIGTERM, and ends with Slurm's KillWait; that end is waited for."""
    deaf = tmp_path / "deaf"
    deaf.touch()
    engine = f"{sys.executable} -m prefect flow-run execute"
    flow_run = pool.run(
        WAITING,
        {"seconds": 300, "again": 1, "marks": str(tmp_path / "marks")},
        command=f"sh -c 'trap \"\" TERM; {engine}; rm {deaf} && sleep 600; true'",
    )
    until(lambda: marks(tmp_path / "marks"), limit_s=_LIMIT_S)
    first = pid_of(pool.again(flow_run))

    pool.cancel(flow_run)
    until(lambda: pool.state(flow_run).type.value == "CANCELLED", limit_s=30)
    assert queue(cluster) != []  # it dies still
    pool.retry(flow_run)
    pool.until(flow_run, "Completed", limit_s=_LIMIT_S)

    assert "Crashed" not in pool.state_names(flow_run), pool.told(flow_run)
    assert (first.name, pid_of(pool.again(flow_run)).name) == ("1", "2")
    assert len(set(marks(tmp_path / "marks"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [True, False])
def test_at_its_time_limit_a_flow_run_goes_on_if_it_may(
    pool: SlurmPool, tmp_path: Path, *, goes_on: bool
) -> None:
    """In the same job, queued again; else it has crashed, and its class is told."""
    flow_run = pool.run(
        WAITING,
        {"seconds": 300, "marks": str(tmp_path / "marks"), "again": 1},
        time_limit="3",
        signal_before_s=60,
        continue_at_time_limit=goes_on,
    )
    if goes_on:
        pool.until(flow_run, "Completed", limit_s=2 * _LIMIT_S)
    else:
        crashed = pool.until(flow_run, "Crashed", limit_s=2 * _LIMIT_S)
        assert "[timeout] Time limit reached" in (crashed.message or "")

    assert len(marks(tmp_path / "marks")) == 1 + goes_on


@pytest.mark.slow
def test_a_worker_without_slurm_says_so_in_a_line(make_pool: Callable[[str], SlurmPool]) -> None:
    """Neither a traceback nor a worker that waits for ever."""
    pool = make_pool("without-slurm")
    pool.environment["PATH"] = "/nowhere"
    begun = pool.log.stat().st_size if pool.log.exists() else 0
    with pool.worker() as process:
        assert process.wait(_LIMIT_S) == 1

    said = pool.log.read_text()[begun:]
    assert said.count("there is no scontrol here") == 1
    assert "Traceback" not in said
