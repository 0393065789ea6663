"""Real Slurm clusters for the tests in this directory; one of each kind for a test process.

They are started by the first test that asks for them. After every test they are restored: jobs
cancelled, nodes revived, controller up; what a test submits does not outlive it. A test that needs
other options takes ``running_cluster`` of slots.py.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.slurm_launcher import SlurmLauncher
from tests.cluster import availability
from tests.cluster.slots import running_cluster
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions

_VERDICT = availability.here()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this directory."""
    item.add_marker("slurm")


def pytest_runtest_setup() -> None:
    """Skip, or fail, where no cluster can be; pytest folds these skips into one line."""
    _VERDICT.carry_out()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the controller said last beside a failure."""
    report = yield
    if report.failed:
        for value in item.funcargs.values():
            if isinstance(value, SlurmCluster):
                report.sections.append(("slurmctld", value.log_tail()))
    return report


class _Clusters:
    """The clusters that have been asked for in this process."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: list[SlurmCluster] = []

    def start(self, options: ClusterOptions) -> SlurmCluster:
        cluster = self._stack.enter_context(running_cluster(options))
        self._started.append(cluster)
        return cluster

    def restore(self) -> None:
        for cluster in self._started:
            try:
                cluster.restore()
            except BaseException:  # the next test is to have a sound one
                cluster.stop()
                cluster.start()
                raise


@pytest.fixture(scope="session")
def _clusters() -> Generator[_Clusters]:
    with ExitStack() as stack:
        yield _Clusters(stack)


@pytest.fixture(autouse=True)
def _restored(_clusters: _Clusters) -> Generator[None]:
    yield
    _clusters.restore()


@pytest.fixture(scope="session")
def cluster(_clusters: _Clusters) -> SlurmCluster:
    """Return a cluster of 4 nodes with 16 CPUs and 4 GPUs each, without accounting."""
    return _clusters.start(ClusterOptions(gpus_per_node=4))


@pytest.fixture(scope="session")
def accounted_cluster(_clusters: _Clusters) -> SlurmCluster:
    """Return a like cluster with slurmdbd; accounts are root and project."""
    return _clusters.start(ClusterOptions(gpus_per_node=4, accounting=True))


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
def launch(tmp_path: Path) -> Generator[Callable[..., SlurmLauncher]]:
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
