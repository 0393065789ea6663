"""The processes of a test cluster, found by what they carry; none is ever known by its name.

A daemon carries ``WATERSHED_CLUSTER=<directory>:<daemon>`` in its environment, and so do the step
daemons that slurmd starts; the tasks of a job carry Slurm's own marks (``SLURM_CONF`` and
``SLURMD_NODENAME``); whatever else descends from those belongs to them. /proc keeps all this for
as long as a process lives. So what a killed test run has left behind is found as well, and a pid
that has gone to another process is never taken for ours.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path

_MARK = "WATERSHED_CLUSTER"


def mark(cluster_dir: Path, daemon: str) -> dict[str, str]:
    """Return the variable by which a daemon is found again.

    Args:
        cluster_dir: Directory of the cluster.
        daemon: Name of the daemon within the cluster; ``slurmd-<node>`` for a node's.

    Returns:
        Name and value.
    """
    return {_MARK: f"{cluster_dir}:{daemon}"}


def processes_of(cluster_dir: Path) -> dict[int, str]:
    """Return all live processes of a cluster.

    Args:
        cluster_dir: Directory of the cluster.

    Returns:
        Name of the daemon for each pid; with ``slurmd-<node>`` stand all processes of that node's
        jobs. Never this process or one that it descends from.
    """
    parents: dict[int, int] = {}
    daemons: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            state, parent = _state_and_parent(pid)
            environ = (entry / "environ").read_bytes()
        except (ProcessLookupError, FileNotFoundError):
            continue  # it has ended
        except PermissionError:
            environ = b""  # another user's, which containers hide; its parent will tell
        if state in "ZX":
            continue
        parents[pid] = parent
        daemon = _daemon(environ, cluster_dir)
        if daemon is not None:
            daemons[pid] = daemon
    _add_descendants(daemons, parents)
    pid = os.getpid()
    while pid in parents:
        daemons.pop(pid, None)
        pid = parents[pid]
    return daemons


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Return both from /proc; the name before them may hold anything."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def _daemon(environ: bytes, cluster_dir: Path) -> str | None:
    text = environ.decode(errors="replace")
    variables = dict(item.partition("=")[::2] for item in text.split("\0"))
    marked_dir, _, daemon = variables.get(_MARK, "").rpartition(":")
    if marked_dir == str(cluster_dir):
        return daemon
    node = variables.get("SLURMD_NODENAME")
    if node and variables.get("SLURM_CONF") == str(cluster_dir / "etc/slurm.conf"):
        return f"slurmd-{node}"
    return None


def _add_descendants(daemons: dict[int, str], parents: Mapping[int, int]) -> None:
    has_grown = True
    while has_grown:
        has_grown = False
        for pid, parent in parents.items():
            if pid not in daemons and parent in daemons:
                daemons[pid] = daemons[parent]
                has_grown = True


def slurm_daemons_of(cluster_dir: Path, node: str) -> list[int]:
    """Return the pids of a node's slurmd and of its step daemons, without the tasks of jobs.

    Args:
        cluster_dir: Directory of the cluster.
        node: Name of the node.

    Returns:
        The pids.
    """
    return [
        pid
        for pid, daemon in processes_of(cluster_dir).items()
        if daemon == f"slurmd-{node}" and _program(pid) in {"slurmd", "slurmstepd"}
    ]


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (ProcessLookupError, FileNotFoundError):
        return ""


def is_stopped(pid: int) -> bool:
    """Tell whether SIGSTOP holds a process.

    Args:
        pid: A process that has not been waited for.

    Returns:
        Whether it does.
    """
    return _state_and_parent(pid)[0] == "T"


def send(pids: Collection[int], number: signal.Signals) -> None:
    """Send a signal to processes, of which some may have ended.

    Args:
        pids: The processes.
        number: The signal.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def crash(cluster_dir: Path, *, daemon: str | None = None, timeout_s: float = 60.0) -> None:
    """Kill the processes of a daemon (a node with its jobs), or of the whole cluster, at once.

    All are stopped before one is killed, so that none can react to another's death.

    Args:
        cluster_dir: Directory of the cluster.
        daemon: Name of the daemon; without it, the whole cluster.
        timeout_s: How long to look for processes that were forked meanwhile.

    Raises:
        TimeoutError: Some still live after that time.
    """
    deadline = time.monotonic() + timeout_s
    while pids := [
        pid for pid, owner in processes_of(cluster_dir).items() if daemon in {None, owner}
    ]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids} of {cluster_dir} outlive SIGKILL; look at them")
        send(pids, signal.SIGSTOP)
        send(pids, signal.SIGKILL)
        time.sleep(0.01)
