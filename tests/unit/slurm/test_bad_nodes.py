"""Nodes that end every job at once: they cost a retry, and no array."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.launchers import SlurmLauncherConfig
from tests.fakes.jobs import Incarnation, Work
from tests.fakes.node import RunDirectoryNode
from tests.unit.slurm.world import World

PLENTY = {"calls_per_minute": 600, "call_burst": 1000}


class _LackingNode(RunDirectoryNode):
    """Nodes some of which have no Python: the batch script ends before it claims anything."""

    def __init__(self, work: Callable[[Incarnation], Work], lacking: set[str]) -> None:
        super().__init__(work, beat_every_s=0.0)
        self._lacking = lacking
        self.tried: dict[str, list[str]] = {}

    def begin(self, run: Incarnation, now_s: float) -> Work:
        """End within a second, or go on as usual."""
        if run.nodes[0] in self._lacking:
            self.tried.setdefault(run.slurm_job, []).append(run.nodes[0])
            return Work(duration_s=0.5, exit_code=127)
        return super().begin(run, now_s)


def _world(path: Path, config: SlurmLauncherConfig, *lacking: str) -> World:
    world = World(path, config=config, beat_every_s=0.0)
    world.node = _LackingNode(lambda _: Work(duration_s=60.0), set(lacking))
    world.slurm.controller._node = world.node
    return world


@pytest.mark.parametrize("pack", ["single", "array"])
def test_one_bad_node_eats_no_array(tmp_path: Path, pack: str) -> None:
    """All its points are submitted again without it, and finish."""
    config = SlurmLauncherConfig.model_validate(PLENTY | {"pack": pack})
    world = _world(tmp_path, config, "node01")
    world.register([world.plan(f"r{number}") for number in range(60)])

    world.run(world.are_over, 2000)

    assert {entry.state.value for entry in world.entries()} == {"finished"}
    (first, *_) = world.ledger.submissions(world.entries()[0].run_dir)
    assert (first.failure, first.node) == ("launch", "node01")
    assert sorted(world.node.begun.values()) == [1] * 60


def test_a_python_that_is_nowhere_is_tried_on_two_nodes(tmp_path: Path) -> None:
    """Not on all: two that say the same are enough, and the job's configuration is to blame."""
    world = _world(tmp_path, SlurmLauncherConfig.model_validate(PLENTY), "node01", "node02")
    world.slurm.controller.hosts["node03"].is_up = False
    world.slurm.controller.hosts["node04"].is_up = False
    world.register([world.plan("a")])

    world.run(world.are_over, 600)

    (entry,) = world.entries()
    history = world.ledger.submissions(entry.run_dir)
    assert [(one.failure, one.node) for one in history] == [
        ("launch", "node01"),
        ("application", "node02"),
    ]
    assert (entry.state.value, entry.failure) == ("failed", "application")
