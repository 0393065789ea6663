"""The launcher on a real cluster: what the fakes are a model of."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig, SlurmResources
from configs.study import Study
from tasks.runtime.records import Costs, JobFile
from tasks.runtime.run_directory import RunDirectory
from tasks.slurm.launcher import JobId, JobState
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import LEDGER_NAME, SlurmLauncher
from tests.cluster.slurm_cluster import SlurmCluster

ROOT = Path(__file__).parents[2]
EXPERIMENT = Study.model_validate({"name": "s", "experiment": {"data": "digits"}}).experiment
SINGLE = SlurmLauncherConfig(pack="single", calls_per_minute=600, call_burst=1000)
ARRAY = SINGLE.model_copy(update={"pack": "array"})

# Submits one job and says so; then it does nothing but follow it.
ORCHESTRATOR = """
import sys, time
from pathlib import Path
from tests.cluster.test_launcher import ARRAY, planned
from tasks.slurm.slurm_launcher import SlurmLauncher

study = Path(sys.argv[1])
launcher = SlurmLauncher(ARRAY, study, state_dir=study / "state")
launcher.submit_all([planned(study, f"r{i}", "work 6") for i in range(4)])
print("planned", flush=True)
time.sleep(600)
"""


def planned(study: Path, name: str, what: str, *, requeue: bool = True) -> JobPlan:
    """Make a run directory and the plan of a job that does what it is told."""
    directory = RunDirectory(study / "points" / name)
    directory.path.mkdir(parents=True, exist_ok=True)
    job = JobFile(study="s", point=what, config_hash="0", experiment=EXPERIMENT)
    directory.job.write_text(job.model_dump_json())
    return JobPlan(
        name=name,
        module="tests.cluster.labelled_job",
        run_dir=directory.path,
        resources=SlurmResources(time_limit="10", requeue=requeue),
        code_dir=ROOT,
        python=sys.executable,
    )


@pytest.fixture
def in_cluster(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """A cluster that this process talks to."""
    return _used(cluster, monkeypatch)


@pytest.fixture
def in_accounted(accounted_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The same, with accounting."""
    return _used(accounted_cluster, monkeypatch)


def _used(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., SlurmLauncher]]:
    """Start launchers that are closed at the end."""
    launchers = []

    def _launch(config: SlurmLauncherConfig, study: str = "study") -> SlurmLauncher:
        (tmp_path / study).mkdir(exist_ok=True)
        launcher = SlurmLauncher(config, tmp_path / study, state_dir=tmp_path / study / "state")
        launchers.append(launcher)
        return launcher

    yield _launch
    for launcher in launchers:
        launcher.close()


def _ended(launcher: SlurmLauncher, job: JobId, limit_s: float = 90) -> JobState:
    state = launcher.wait(job, limit_s)
    assert state.is_final, f"{job} is {state} after {limit_s} s"
    return state


def _until(condition: Callable[[], object], limit_s: float = 30) -> float:
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < limit_s, "it did not come to that"
        time.sleep(0.05)
    return time.monotonic() - begun_s


def _began(plan: JobPlan) -> list[str]:
    """Return the jobs of Slurm that have begun a run."""
    path = plan.run_dir / "began"
    return path.read_text().split() if path.exists() else []


def _queue(cluster: SlurmCluster) -> list[str]:
    """Return the names of the jobs that wait or run."""
    return cluster.run(["squeue", "--noheader", "--format=%j"]).stdout.split()


@pytest.mark.parametrize("config", [SINGLE, ARRAY, ARRAY.model_copy(update={"pack": "allocation"})])
def test_jobs_end_as_they_should(
    in_accounted: SlurmCluster,
    launch: Callable[..., SlurmLauncher],
    tmp_path: Path,
    config: SlurmLauncherConfig,
) -> None:
    """Good ends, errors with a reason and deaths without one; costs of each from the accounting."""
    del in_accounted
    launcher = launch(config)
    plans = [
        planned(tmp_path / "study", f"r{number}", what)
        for number, what in enumerate(["work 1", "fail", "work 2", "die"])
    ]

    states = [_ended(launcher, job) for job in launcher.submit_all(plans)]
    launcher.close()

    assert [state.value for state in states] == ["finished", "failed", "finished", "failed"]
    results = [RunDirectory(plan.run_dir).read_result() for plan in plans]
    assert [result.reason for result in results if result] == ["", "data", "", "oom"]
    assert [len(_began(plan)) for plan in plans] == [1, 1, 1, 1]
    for plan in plans[:1]:
        costs = Costs.model_validate_json(RunDirectory(plan.run_dir).costs.read_text())
        assert costs.attempts[0].node_hours is not None


def test_the_ends_of_jobs_are_known_soon(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Half of them within a second and a half, 95 % within two."""
    del in_cluster
    launcher = launch(ARRAY)
    plans = [planned(tmp_path / "study", f"r{n}", f"work {3 + 0.4 * n}") for n in range(20)]
    delays_s = []

    for job, plan in zip(launcher.submit_all(plans), plans, strict=True):
        assert _ended(launcher, job) is JobState.FINISHED
        delays_s.append(time.time() - float((plan.run_dir / "ended").read_text()))

    delays_s.sort()
    sys.stdout.write(f"end of a job -> known: {delays_s[10]:.2f} s, p95 {delays_s[18]:.2f} s\n")
    assert delays_s[18] <= 2.0


def test_cancelling_reaches_running_and_queued_jobs(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Within ten seconds; a job that is none of ours goes on."""
    in_cluster.run(["sbatch", "--job-name=other", "--wrap=sleep 60", "--output=/dev/null"])
    launcher = launch(ARRAY.model_copy(update={"max_running": 1}))
    plans = [planned(tmp_path / "study", f"r{number}", "work 60") for number in range(3)]
    jobs = launcher.submit_all(plans)
    _until(lambda: launcher.poll(jobs[0]) is JobState.RUNNING)

    begun_s = time.monotonic()
    for job in jobs:
        launcher.cancel(job)
    states = [_ended(launcher, job, 20) for job in jobs]

    assert time.monotonic() - begun_s <= 10.0
    assert states == [JobState.INTERRUPTED] * 3
    assert _queue(in_cluster) == ["other"]


def test_a_killed_orchestrator_leaves_its_jobs_to_the_next(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Killed as soon as it has written them down, or a little later: each job runs once."""
    study = tmp_path / "study"
    study.mkdir()
    environment = os.environ | in_cluster.environment() | {"PYTHONPATH": str(ROOT)}
    for pause_s in (0.0, 0.02, 0.1, 1.0):
        with subprocess.Popen(
            [sys.executable, "-c", ORCHESTRATOR, str(study)],
            env=environment,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"planned\n"
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)

    plans = [planned(study, f"r{number}", "work 6") for number in range(4)]
    launcher = launch(ARRAY)
    states = [_ended(launcher, job) for job in launcher.submit_all(plans)]

    assert states == [JobState.FINISHED] * 4
    assert [len(_began(plan)) for plan in plans] == [1] * 4


def test_a_controller_that_crashes_loses_no_job(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """Killed in the second after the submission, it forgets the job; a stranger gets its id."""
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "work 5")

    job = launcher.submit(plan)
    _until(lambda: _queue(in_cluster))
    in_cluster.restart_controller(crash=True)
    in_cluster.run(["sbatch", "--job-name=other", "--wrap=sleep 300", "--output=/dev/null"])
    state = _ended(launcher, job, 180)

    assert state is JobState.FINISHED
    assert "other" in _queue(in_cluster)
    ended = [
        path for path in (plan.run_dir / "attempts").iterdir() if (path / "exit.json").exists()
    ]
    codes = [json.loads((path / "exit.json").read_text())["code"] for path in ended]
    assert codes.count(0) == 1


def test_a_lost_node_is_avoided(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """A job that must not be requeued is submitted again, and not to the node that was lost."""
    launcher = launch(SINGLE.model_copy(update={"requeue": False}))
    plan = planned(tmp_path / "study", "r", "save 300", requeue=False)
    job = launcher.submit(plan)
    _until(lambda: _began(plan))
    started = json.loads((plan.run_dir / "attempts/1/started.json").read_text())

    in_cluster.kill_node(started["node"], now=True)
    state = _ended(launcher, job, 180)

    assert state is JobState.FINISHED
    second = json.loads((plan.run_dir / "attempts/2/started.json").read_text())
    assert second["submission"] == 2
    assert second["node"] != started["node"]


def test_a_requeued_job_does_not_wait_two_minutes(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """What Slurm holds after a requeue is let go; the same submission goes on."""
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "save 300")
    job = launcher.submit(plan)
    _until(lambda: _began(plan))

    begun_s = time.monotonic()
    in_cluster.run(["scontrol", "requeue", _began(plan)[0]])
    state = _ended(launcher, job, 100)

    assert state is JobState.FINISHED
    assert time.monotonic() - begun_s < 90.0
    assert len(set(_began(plan))) == 1
    ledger = LeaderLedger(LedgerFile(tmp_path / "study" / "state" / LEDGER_NAME))
    assert [one.submission for one in ledger.submissions(str(plan.run_dir))] == [1]


def test_what_sbatch_refuses_is_said_in_its_words(
    in_cluster: SlurmCluster, launch: Callable[..., SlurmLauncher], tmp_path: Path
) -> None:
    """The job has failed; the message names the partition's fault."""
    del in_cluster
    launcher = launch(SINGLE)
    plan = planned(tmp_path / "study", "r", "work")
    resources = SlurmResources(partition="nowhere", time_limit="10")

    job = launcher.submit(plan.model_copy(update={"resources": resources}))
    state = _ended(launcher, job, 20)

    result = RunDirectory(plan.run_dir).read_result()
    assert result is not None
    assert (state, result.reason) == (JobState.FAILED, "refused")
    assert "invalid partition name" in result.message.lower()
