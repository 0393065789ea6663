"""Where the clusters of test runs lie: numbered slots below one directory of root's.

Test processes that run at once take different slots. A slot whose process is dead is cleared,
daemons and jobs included, by the next process that looks for one.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.slurm_configuration import ClusterOptions


@contextmanager
def running_cluster(
    options: ClusterOptions | None = None, *, parent: Path | None = None
) -> Generator[SlurmCluster]:
    """Run a cluster in a free slot for the time of a ``with`` block.

    Args:
        options: What the cluster looks like; by default 4 nodes without accounting.
        parent: Directory of the slots, by default in the directory for temporary files.

    Yields:
        The running cluster.

    Raises:
        PermissionError: The directory of the slots is another user's or a link.
    """
    parent = parent or Path(tempfile.gettempdir(), "watershed-clusters")
    parent.mkdir(mode=0o755, exist_ok=True)
    if parent.stat(follow_symlinks=False).st_uid != 0 or parent.is_symlink():
        raise PermissionError(f"{parent} is not a directory of root's own; remove it")
    reap(parent)
    cluster = _claim_slot(parent, options)
    with cluster:
        yield cluster


def reap(parent: Path) -> None:
    """Kill and remove the clusters of dead processes.

    Args:
        parent: Directory of the slots.
    """
    for lock in parent.glob("*.lock"):
        cluster = SlurmCluster(lock.with_suffix(""))
        try:
            cluster.claim()
        except BlockingIOError:
            continue  # its process lives
        cluster.stop()


def _claim_slot(parent: Path, options: ClusterOptions | None) -> SlurmCluster:
    for slot in count():
        cluster = SlurmCluster(parent / str(slot), options)
        try:
            cluster.claim()
        except BlockingIOError:
            continue
        return cluster
    raise AssertionError("count() has no end")
