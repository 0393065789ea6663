"""The configuration of a test cluster fits the version of Slurm and the options."""

from pathlib import Path

import pytest

from tests.cluster.slurm_configuration import (
    ClusterOptions,
    Ports,
    cgroup_conf,
    gres_conf,
    slurm_conf,
)


@pytest.mark.parametrize(
    ("version", "plugin"),
    [
        ("slurm-wlm 22.05.8", "cgroup/v1"),  # Debian 12
        ("slurm 23.02.7", "cgroup/v1"),
        ("slurm-wlm 23.11.4", "disabled"),  # Ubuntu 24.04
        ("slurm-wlm 24.11.5", "disabled"),  # Debian 13
    ],
)
def test_cgroups_are_left_alone_in_the_words_of_the_version(version: str, plugin: str) -> None:
    """From 23.11 on the word is ``disabled``; older ones are told a version that asks nothing."""
    assert cgroup_conf(version) == f"CgroupPlugin={plugin}\n"


def test_output_without_a_version_is_refused() -> None:
    """An answer of slurmd that holds no version is quoted."""
    with pytest.raises(ValueError, match=r"'slurmd: error' .* no version"):
        cgroup_conf("slurmd: error")


def test_every_node_has_a_port_of_its_own() -> None:
    """All daemons of a cluster, slurmdbd included, listen on different ports of its block."""
    ports = Ports(20_000)
    options = ClusterOptions(nodes=12, accounting=True)

    text = slurm_conf(options, ports, Path("/c"), host="machine")

    numbers = [word.partition("=")[2] for word in text.split() if "Port=" in word]
    assert sorted(map(int, numbers)) == list(range(20_000, 20_000 + 2 + 12))


def test_gpus_are_files_and_resources() -> None:
    """GPUs stand in both files; without any, slurm.conf names no generic resource."""
    directory = Path("/c")
    with_gpus, without = ClusterOptions(gpus_per_node=2), ClusterOptions()

    text = slurm_conf(with_gpus, Ports(20_000), directory, host="machine")

    assert "Gres=gpu:a100:2" in text
    assert gres_conf(with_gpus, directory).count("Name=gpu") == 2
    assert "gpu" not in slurm_conf(without, Ports(20_000), directory, host="machine")
