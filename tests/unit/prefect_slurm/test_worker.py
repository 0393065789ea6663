"""The worker: what it hands over, what it refuses, how it starts and ends."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

from tasks.prefect_slurm.pool import PoolFault, SlurmJobConfiguration
from tasks.prefect_slurm.records import read_flow_run_job
from tasks.prefect_slurm.worker import SlurmWorker
from tests.unit.prefect_slurm.world import JobWorld, PrefectTable, wait_until

KEY = "pnu_0123456789abcdef"


class _Handed:
    """Takes the report of where a job is."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def started(self, value: str) -> None:
        """Take the report."""
        self.values.append(value)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[JobWorld]:
    """Jobs that a reconciler sees to."""
    one = JobWorld(tmp_path, is_led=True)
    yield one
    one.jobs.close()


@pytest.fixture
def prefect() -> PrefectTable:
    """A Prefect without flow runs."""
    return PrefectTable()


@pytest.fixture
def worker(world: JobWorld, prefect: PrefectTable) -> SlurmWorker:
    """A worker that has started, as far as it matters here."""
    one = SlurmWorker(work_pool_name="pool")
    one._flow_run_jobs = world.jobs
    one._client = cast("PrefectClient", prefect)
    return one


def _configured(flow_run: FlowRun, **variables: Any) -> SlurmJobConfiguration:
    configured = SlurmJobConfiguration(**variables)
    configured.prepare_for_flow_run(flow_run)
    return configured


def _run(worker: SlurmWorker, flow_run: FlowRun, **variables: Any) -> list[str]:
    handed = _Handed()
    configured = _configured(flow_run, **variables)
    result = asyncio.run(worker.run(flow_run, configured, cast("Any", handed)))
    assert result.status_code == 0
    return handed.values


def test_a_flow_run_becomes_a_job(
    worker: SlurmWorker, world: JobWorld, prefect: PrefectTable, tmp_path: Path
) -> None:
    """It returns at once, with what the job is found by; the job is at Slurm soon."""
    flow_run = prefect.add(StateType.PENDING)

    (pid,) = _run(worker, flow_run, runs_dir=str(tmp_path / "runs"), resources={"partition": None})

    cluster, _, run_dir = pid.partition(":")
    assert cluster == world.jobs.cluster
    assert Path(run_dir) == tmp_path / "runs" / str(flow_run.id) / "1"
    job = read_flow_run_job(Path(run_dir))
    assert (job.flow_run_id, job.work_pool) == (str(flow_run.id), "pool")
    wait_until(lambda: world.slurm.num_calls("sbatch"))


def test_no_secret_is_in_a_file_of_the_job(
    worker: SlurmWorker, prefect: PrefectTable, world: JobWorld, tmp_path: Path
) -> None:
    """Of the worker's settings, its address alone is written down; the key is in a file."""
    secrets = tmp_path / "secrets"
    secrets.write_text(f"PREFECT_API_KEY={KEY}\n")
    secrets.chmod(0o600)
    flow_run = prefect.add(StateType.PENDING)

    with temporary_settings({PREFECT_API_URL: "http://login1/api", PREFECT_API_KEY: KEY}):
        (pid,) = _run(worker, flow_run, secrets_file=str(secrets))

    run_dir = Path(pid.partition(":")[2])
    wait_until(lambda: world.slurm.num_calls("sbatch"))
    for path in run_dir.iterdir():
        assert path.is_dir() or KEY not in path.read_text(), path
    assert read_flow_run_job(run_dir).environment["PREFECT_API_URL"] == "http://login1/api"


def test_a_secret_that_would_not_reach_the_job_is_told_before(
    worker: SlurmWorker, prefect: PrefectTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both ways to let it: the profile, and a file."""
    monkeypatch.setenv("PREFECT_API_KEY", KEY)

    with (
        temporary_settings({PREFECT_API_KEY: KEY}),
        pytest.raises(PoolFault, match=r"prefect config set PREFECT_API_KEY=.*secrets_file"),
    ):
        _run(worker, prefect.add(StateType.PENDING))


@pytest.mark.parametrize("kind", [StateType.CANCELLING, StateType.CANCELLED, StateType.RUNNING])
def test_what_is_not_wanted_any_more_is_not_submitted(
    worker: SlurmWorker, world: JobWorld, prefect: PrefectTable, kind: StateType
) -> None:
    """Nor does it crash: Prefect knows what has become of it."""
    assert _run(worker, prefect.add(kind)) == [""]
    assert world.ledger.entries() == []


def test_faults_are_told_before_anything_is_written(
    worker: SlurmWorker, world: JobWorld, prefect: PrefectTable
) -> None:
    """Those of the form, and what the cluster does not have."""
    flow_run = prefect.add(StateType.PENDING)

    with pytest.raises(PoolFault, match="nodes: "):
        _run(worker, flow_run, resources={"nodes": 0})
    with pytest.raises(PoolFault, match=r"command: .*No closing quotation"):
        _run(worker, flow_run, command="run 'this")
    with pytest.raises(PoolFault, match="for: partition: 'nowhere'"):
        _run(worker, flow_run, resources={"partition": "nowhere"})

    assert world.ledger.entries() == []


def test_killing_cancels_the_job(
    worker: SlurmWorker, world: JobWorld, prefect: PrefectTable
) -> None:
    """As Prefect asks for it when a flow run was cancelled while its worker submitted it."""
    flow_run = prefect.add(StateType.PENDING)
    (pid,) = _run(worker, flow_run)
    wait_until(lambda: world.ledger.entries()[0].slurm_job)

    asyncio.run(worker.kill_infrastructure(pid, _configured(flow_run), grace_seconds=1))

    wait_until(lambda: world.slurm.num_calls("scancel"))


def test_killing_what_is_not_here_is_told(worker: SlurmWorker, world: JobWorld) -> None:
    """Another cluster's job may be alive; one that the ledger has never had is not."""
    configured = SlurmJobConfiguration()

    with pytest.raises(InfrastructureNotAvailable, match="a job of cluster frontier"):
        asyncio.run(worker.kill_infrastructure("frontier:/runs/1", configured))
    with pytest.raises(InfrastructureNotFound, match="no job in /runs/1"):
        asyncio.run(worker.kill_infrastructure(f"{world.jobs.cluster}:/runs/1", configured))


def test_without_slurm_it_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And says so in one line, before it asks Prefect for anything."""
    monkeypatch.setenv("PATH", str(tmp_path))

    async def start() -> None:
        async with SlurmWorker(work_pool_name="pool"):
            pass

    with pytest.raises(SystemExit) as end:
        anyio.run(start)

    words = str(end.value)
    assert words.startswith("worker of type slurm: there is no scontrol here")
    assert "use a work pool of type process" in words
    assert "\n" not in words


def test_prefect_still_has_what_the_worker_is_built_on() -> None:
    """Private names of Prefect 3.8 that another version may not have."""
    own = SlurmWorker(work_pool_name="pool")

    assert own._submitting_flow_run_ids == set()
    assert own._work_pool_name == "pool"
