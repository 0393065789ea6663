"""Nodes with slow links: as slow as asked, in both directions; nothing stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.netns_cluster import NetnsCluster, absent, reap

_SPEED = [sys.executable, "-S", str(Path(__file__).with_name("link_speed.py"))]
_BYTES_OF_MBIT = 1e6 / 8
# Headers take 4 %, and a busy machine is late now and then. Buckets never give more than their rate
# but for the 64 KiB that they hold at the beginning: 4 % of what is sent.
_SLOWEST, _FASTEST = 0.7, 1.1
_MAKE_AND_DIE = """
import os, signal
from tests.cluster.netns_cluster import NetnsCluster
cluster = NetnsCluster(2, rate_mbit=100)
cluster.__enter__()
print(*cluster.namespaces, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    """Skip, or fail where clusters are required, if there can be no nodes."""
    if reason := absent():
        (pytest.fail if os.environ.get("REQUIRE_SLURM") == "1" else pytest.skip)(reason)


def existing() -> set[str]:
    """Return the network namespaces of this machine."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def mbit_per_s(cluster: NetnsCluster, source: int, target: int, *, num_bytes: int) -> float:
    """Send bytes from node to node, and return how fast they arrived."""
    receive = cluster.command(target, [*_SPEED, "receive"])
    with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().strip()
        send = [*_SPEED, "send", cluster.address(target), port, str(num_bytes)]
        subprocess.run(cluster.command(source, send), check=True, timeout=30)
        return float(receiver.stdout.readline()) / _BYTES_OF_MBIT


def test_a_link_has_its_rate_in_both_directions() -> None:
    """Both directions have the rate, and after a change the other one; a node alone has none."""
    with NetnsCluster(2, rate_mbit=20) as cluster:
        there = mbit_per_s(cluster, 0, 1, num_bytes=1_500_000)
        back = mbit_per_s(cluster, 1, 0, num_bytes=1_500_000)
        inside = mbit_per_s(cluster, 0, 0, num_bytes=20_000_000)
        cluster.set_rate(60)
        faster = mbit_per_s(cluster, 0, 1, num_bytes=4_500_000)
        cluster.set_rate(None)
        free = mbit_per_s(cluster, 0, 1, num_bytes=20_000_000)

    assert 20 * _SLOWEST < there < 20 * _FASTEST
    assert 20 * _SLOWEST < back < 20 * _FASTEST
    assert 60 * _SLOWEST < faster < 60 * _FASTEST
    assert min(inside, free) > 60 * _FASTEST


def test_the_end_removes_all() -> None:
    """After the end there is no namespace and no process of the nodes, though one still ran."""
    with NetnsCluster(3, rate_mbit=100) as cluster:
        made = set(cluster.namespaces)
        are_there = made <= existing()
        command = cluster.command(1, ["sh", "-c", "echo; exec sleep 1000"])
        running = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert running.stdout is not None
        running.stdout.readline()  # it is inside

    assert are_there
    assert not made & existing()
    assert running.wait(5) == -signal.SIGKILL


def test_what_a_killed_process_leaves_is_removed_by_the_next() -> None:
    """Nodes of a dead process go, those of a live one stay."""
    with NetnsCluster(1, rate_mbit=None) as cluster:
        killed = subprocess.run(
            [sys.executable, "-c", _MAKE_AND_DIE], capture_output=True, text=True, check=False
        )
        left = set(killed.stdout.split())
        were_left = left <= existing()

        reap()

        assert killed.returncode == -signal.SIGKILL
        assert len(left) == 3
        assert were_left
        assert not left & existing()
        assert set(cluster.namespaces) <= existing()
