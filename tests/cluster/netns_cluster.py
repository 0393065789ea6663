"""Pretend hosts on this machine whose links have a limited bandwidth: network namespaces.

Node k is a namespace with one interface, ``eth0``. A switch, a bridge in a namespace of its own,
joins all nodes; this machine's network sees none of it, so that clusters never meet. A link is
limited in both directions by token buckets: what a node sends, at its eth0, what it gets, at the
switch's port. What a node sends to itself stays on its loopback, and is not limited.

Nodes share all but the network: files, processes, memory, processors.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.daemons import PATH

INTERFACE = "eth0"
_SUBNET = "10.77.0"
_MOST_NODES = 250
_PREFIX = "watershed"
_NAME = re.compile(rf"{_PREFIX}-(?P<pid>\d+)-(?P<started>\d+)-\d+-(?:node\d+|switch)")
_MIN_BURST_BYTES = 65_536
"""One segment that the kernel leaves whole between virtual interfaces; a smaller bucket cuts it."""
_BURSTS_PER_S = 250
_LONGEST_QUEUE_MS = 50
_PATIENCE_S = 10.0
_numbers = itertools.count()


class NetnsCluster:
    """Nodes with slow links; a context manager that makes and removes them.

    Args:
        num_nodes: From 1 to 250.
        rate_mbit: Of each link and direction, in megabits a second; None for no limit.

    Raises:
        ValueError: There are too few or too many nodes.
    """

    def __init__(self, num_nodes: int, rate_mbit: float | None) -> None:
        if not 1 <= num_nodes <= _MOST_NODES:
            raise ValueError(f"{num_nodes} nodes; use 1 to {_MOST_NODES}")
        self.num_nodes, self._rate_mbit = num_nodes, rate_mbit
        pid = os.getpid()
        self._base = f"{_PREFIX}-{pid}-{_started(pid)}-{next(_numbers)}"
        self._switch = f"{self._base}-switch"

    def __enter__(self) -> Self:
        """Make the nodes; what dead processes have left behind goes first."""
        reap()
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove them."""
        self.down()

    @property
    def namespaces(self) -> list[str]:
        """Names of the nodes' namespaces, and of the switch's."""
        return [*(self._namespace(node) for node in range(self.num_nodes)), self._switch]

    def address(self, node: int) -> str:
        """Return the IPv4 address of a node.

        Args:
            node: From 0.
        """
        return f"{_SUBNET}.{node + 1}"

    def command(self, node: int, argv: list[str]) -> list[str]:
        """Return the command that runs another one on a node.

        Args:
            node: From 0.
            argv: Program and arguments.
        """
        return ["ip", "netns", "exec", self._namespace(node), *argv]

    def set_rate(self, rate_mbit: float | None) -> None:
        """Limit all links anew, also while they are used.

        Args:
            rate_mbit: As at the beginning.

        Raises:
            RuntimeError: The kernel refuses.
        """
        self._rate_mbit = rate_mbit
        for node in range(self.num_nodes):
            _limit(self._namespace(node), INTERFACE, rate_mbit)
            _limit(self._switch, f"port{node}", rate_mbit)

    def down(self) -> None:
        """Kill what still runs on the nodes, and remove them; again, does nothing."""
        _remove(set(self.namespaces))

    def _up(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "switch", "up")
        for node in range(self.num_nodes):
            namespace, port = self._namespace(node), f"port{node}"
            _run("ip", "netns", "add", namespace)
            pair = ["type", "veth", "peer", "name", port, "netns", self._switch]
            _run("ip", "link", "add", INTERFACE, "netns", namespace, *pair)
            _run("ip", "-n", self._switch, "link", "set", port, "master", "switch", "up")
            _run("ip", "-n", namespace, "addr", "add", f"{self.address(node)}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _run("ip", "-n", namespace, "link", "set", interface, "up")
        self.set_rate(self._rate_mbit)

    def _namespace(self, node: int) -> str:
        return f"{self._base}-node{node}"


@functools.cache
def absent() -> str:
    """Say in one line why no nodes can be made here; nothing, if they can."""
    missing = [name for name in ("ip", "tc") if shutil.which(name, path=PATH) is None]
    if missing:
        return f"{' and '.join(missing)} not found; on Debian or Ubuntu: apt install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root; run the tests as root, in a container say"
    try:
        with NetnsCluster(1, rate_mbit=100):
            return ""
    except RuntimeError as error:
        return f"the kernel makes no throttled network namespaces here: {error}"


def reap() -> None:
    """Remove the nodes of processes that live no more."""
    gone = set()
    for namespace in _existing():
        if match := _NAME.fullmatch(namespace):
            pid, started = int(match["pid"]), int(match["started"])
            if _started(pid) != started:
                gone.add(namespace)
    _remove(gone)


def _remove(namespaces: set[str]) -> None:
    present = namespaces & _existing()
    # What still runs in one would keep its interfaces, after its name has gone.
    deadline_s = time.monotonic() + _PATIENCE_S
    while pids := [pid for namespace in present for pid in _pids(namespace)]:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"processes {pids} outlive SIGKILL; look at them")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for namespace in present:
        _run("ip", "netns", "del", namespace)


def _existing() -> set[str]:
    return {entry["name"] for entry in json.loads(_run("ip", "-json", "netns", "list") or "[]")}


def _pids(namespace: str) -> list[int]:
    """Return the processes on a node; a child that nobody has waited for yet is none."""
    pids = (int(pid) for pid in _run("ip", "netns", "pids", namespace).split())
    return [pid for pid in pids if _started(pid) is not None]


def _started(pid: int) -> int | None:
    """Return when a live process began, in ticks of the kernel; with the pid, it is unique."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in {"Z", "X"} else int(fields[18])


def _limit(namespace: str, interface: str, rate_mbit: float | None) -> None:
    if rate_mbit is None:
        if "tbf" in _run("tc", "-n", namespace, "qdisc", "show", "dev", interface):
            _run("tc", "-n", namespace, "qdisc", "del", "dev", interface, "root")
        return
    bit_per_s = round(rate_mbit * 1e6)
    burst_bytes = max(_MIN_BURST_BYTES, bit_per_s // 8 // _BURSTS_PER_S)
    bucket = ["rate", f"{bit_per_s}bit", "burst", str(burst_bytes)]
    bucket += ["latency", f"{_LONGEST_QUEUE_MS}ms"]
    _run("tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf", *bucket)


def _run(*argv: str) -> str:
    """Run a command, and return what it prints.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        argv, env={"PATH": PATH, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
