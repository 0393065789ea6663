"""A machine of Slurm measures itself: two nodes of two ranks, one process a rank under srun."""

from pathlib import Path

import pytest

from configs.topology import CLUSTER, load_topology
from flows.command_line import main
from tests.cluster.slurm_cluster import SlurmCluster

MACHINE = "levels:\n- {name: node, ranks: 2}\n"
LAUNCHER = 'time_limit: "10"\ncalls_per_minute: 600\ncall_burst: 1000\n'


@pytest.mark.slow
def test_a_cluster_is_measured_by_a_job(in_cluster: SlurmCluster, tmp_path: Path) -> None:
    """The command submits one job on both nodes, and writes what it has measured."""
    del in_cluster
    machine, launcher = tmp_path / "pairs.yaml", tmp_path / "launcher.yaml"
    machine.write_text(MACHINE)
    launcher.write_text(LAUNCHER)
    output = tmp_path / "measured.yaml"
    asked = ["--ranks", "4", "--device", "cpu", "--hidden", "32,64", "--tokens", "16"]
    asked += ["--least-s", "0.01"]
    where = ["--launcher", launcher, "--runs-dir", tmp_path / "runs", "--output", output]

    code = main(["calibrate", str(machine), *asked, *map(str, where)])

    assert code == 0
    measured = load_topology(str(output))
    assert measured.name == "measured"
    for level in ("node", CLUSTER):
        link = measured.link(level)
        assert link is not None
        assert link.gb_per_s > 0
    assert len(measured.device.rates["float32"]) == 2
    assert f"4 ranks on 2 nodes like {_first_node()}" in output.read_text()


def _first_node() -> str:
    return Path("/proc/sys/kernel/hostname").read_text().strip()
