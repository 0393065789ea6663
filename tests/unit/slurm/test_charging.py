"""What is called beside the leader's rounds is paid from the same bucket."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from configs.study import Study
from flows.batch_preview import planned_batches
from flows.jobs import take_over
from tasks.prefect_slurm.jobs import FlowRunJobs
from tasks.slurm.bucket import MOST_OWED, narrowest
from tasks.slurm.charging import charge
from tasks.slurm.leader import Leadership
from tasks.slurm.leader_ledger import LeaderLedger
from tasks.slurm.ledger_file import LedgerFile, state_directory
from tasks.slurm.plan import JobPlan
from tasks.slurm.slurm_launcher import LEDGER_NAME, LOCK_NAME, SlurmLauncher
from tasks.steps.creation import create_study_directory
from tasks.steps.launching import launch_faults
from tasks.steps.nightly import maintenance
from tests.fakes.served import FakeCluster
from tests.fakes.slurm import Faults
from tests.unit.slurm.world import World

CONFIG = SlurmLauncherConfig(call_burst=40, calls_per_minute=1)
STUDY = Study.model_validate(
    {
        "name": "s",
        "experiment": {"data": "digits"},
        "launcher": {"kind": "slurm", "call_burst": 40, "calls_per_minute": 1},
    }
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    """A fake Slurm with a maintenance, as programs."""
    directory = tmp_path_factory.mktemp("slurm")
    faults = Faults(maintenance=(("upgrade", 3000.0, 90_000.0, 4),))
    with FakeCluster(directory, faults=faults) as cluster:
        yield cluster


@pytest.fixture
def cluster(
    served: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeCluster]:
    """Its commands on PATH; another process leads, so that nothing else is called."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WATERSHED_STATE_DIR", str(tmp_path / "state"))
    ledger = LeaderLedger(_file())
    plan = JobPlan(name="a", module="toy.job", run_dir=tmp_path / "other")
    ledger.register(tmp_path, CONFIG, [plan], 0.0)
    charge(ledger.file, 0)
    leader = Leadership(state_directory("fake") / LOCK_NAME)
    assert leader.acquire()
    yield served
    leader.release()


def _file() -> LedgerFile:
    return LedgerFile(state_directory("fake") / LEDGER_NAME)


def _tokens() -> float:
    ((tokens,),) = _file().read("SELECT tokens FROM bucket")
    return float(tokens)


def _launcher_begins(study_dir: Path) -> None:
    SlurmLauncher(CONFIG, study_dir).detach()


def _worker_begins(_: Path) -> None:
    jobs = FlowRunJobs()
    for _repeat in range(3):  # one answer is good for a minute
        jobs.partitions_faults(CONFIG.resources())
    jobs.close()


def _study_is_checked(_: Path) -> None:
    launch_faults(STUDY)


def _study_is_planned(study_dir: Path) -> None:
    directory = create_study_directory(STUDY, study_dir, datetime(2026, 1, 2))
    planned_batches(STUDY, CONFIG, directory)


def _jobs_are_adopted(study_dir: Path) -> None:
    take_over(create_study_directory(STUDY, study_dir, datetime(2026, 1, 2)))


def _night_is_checked(_: Path) -> None:
    maintenance(STUDY)


@pytest.mark.parametrize(
    ("deed", "num_calls"),
    [
        (_launcher_begins, 1),
        (_worker_begins, 2),
        (_study_is_checked, 1),
        (_study_is_planned, 1),
        (_jobs_are_adopted, 1),
        (_night_is_checked, 3),
    ],
)
def test_every_call_is_paid(
    deed: Callable[[Path], None], num_calls: int, cluster: FakeCluster, tmp_path: Path
) -> None:
    """As many tokens are gone as commands were run."""
    before, num_before = _tokens(), len(cluster.calls())

    deed(tmp_path / "runs")

    assert len(cluster.calls()) - num_before == num_calls
    assert before - _tokens() == pytest.approx(num_calls, abs=0.5)  # some comes back meanwhile


def test_the_size_of_arrays_is_paid_once(tmp_path: Path) -> None:
    """The leader that divides the first grid asks for it; the second one costs nothing."""
    world = World(tmp_path, config=CONFIG)
    world.register([world.plan("a"), world.plan("b")])
    world.run(5.0)
    world.register([world.plan("c"), world.plan("d")])
    world.run(5.0)

    ((tokens,),) = world.ledger.file.read("SELECT tokens FROM bucket")

    assert world.slurm.num_calls("scontrol") == 1
    assert tokens == pytest.approx(40 - world.slurm.num_calls(), abs=0.2)


def test_commands_of_a_person_wait_for_nothing(tmp_path: Path) -> None:
    """However many: the debt has a floor, and the narrowest rate of all studies pays it off."""
    ledger = LeaderLedger(LedgerFile(tmp_path / LEDGER_NAME))
    for name, rate in (("a", 600), ("b", 1)):
        plan = JobPlan(name=name, module="toy.job", run_dir=tmp_path / name)
        config = SlurmLauncherConfig(calls_per_minute=rate, call_burst=40)
        ledger.register(tmp_path / name, config, [plan], 0.0)

    for _ in range(100):
        charge(ledger.file, 3)

    ((tokens,),) = ledger.file.read("SELECT tokens FROM bucket")
    assert tokens == -MOST_OWED
    assert narrowest(ledger.launchers()).per_minute == 1
