"""One leader among all processes of a user on a cluster: only it talks to Slurm.

The leader holds a lock (flock) that goes with its process, however that ends. The commands of Slurm
that it starts inherit the lock: if it is killed while an sbatch is on its way, the lock stays until
that sbatch has ended, so that the successor looks for the job when the answer is settled.

flock works between the hosts of NFS and of Lustre (mounted with ``flock``). A mount whose options
say that it does not is refused with the ledger beside this file (``file_systems``). Where that is
not to be seen, the second line of defence is the stamp: host, process, and a time that the leader
renews. Nobody leads while the stamp of another host is fresh; two that begin in the same instant
would not see each other's.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import BinaryIO

from tasks.slurm.file_systems import has_no_locks

RENEWED_EVERY_S = 20.0
_STALE_AFTER_S = 120.0


class Leadership:
    """The lock, taken or not; to be used by one thread.

    Args:
        path: The lock file; made if absent. Its directory must exist.
        host: Name of this host.
    """

    def __init__(self, path: Path, host: str | None = None) -> None:
        self._path = path
        self._host = host or socket.gethostname()
        self._file: BinaryIO | None = None

    @property
    def is_held(self) -> bool:
        """Whether we lead."""
        return self._file is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a command of Slurm has to inherit: the lock, while we hold it."""
        return () if self._file is None else (self._file.fileno(),)

    def acquire(self) -> bool:
        """Become the leader, unless another process is.

        Returns:
            Whether we lead now.

        Raises:
            OSError: The file cannot be opened, or cannot be locked now.
        """
        if self._file is not None:
            return True
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            if has_no_locks(error):  # it had them when the ledger was opened: lockd has died
                message = (
                    f"{error.strerror}; without locks nobody may lead: set WATERSHED_STATE_DIR"
                )
                raise OSError(error.errno, message, str(self._path)) from error
            raise
        if self._is_stamped_elsewhere(file):
            file.close()
            return False
        self._file = file
        self.renew()
        return True

    def renew(self) -> None:
        """Renew the stamp, which says that we are there and at work.

        Raises:
            OSError: It cannot be written.
        """
        if self._file is not None:
            stamp = json.dumps({"host": self._host, "pid": os.getpid()}).encode()
            self._file.seek(0)
            self._file.truncate()
            self._file.write(stamp)
            self._file.flush()

    def release(self) -> None:
        """Lead no more."""
        if self._file is not None:
            self._file.truncate(0)
            fcntl.flock(self._file, fcntl.LOCK_UN)  # also for whoever has inherited it
            self._file.close()
            self._file = None

    def stuck_holder(self) -> str:
        """Return who leads and does nothing, for people; empty if there is no such process.

        A process that was stopped (Ctrl-Z) keeps its lock.
        """
        try:
            stamp = json.loads(self._path.read_bytes())
            age_s = time.time() - self._path.stat().st_mtime
        except (OSError, ValueError):
            return ""
        return f"process {stamp['pid']} on {stamp['host']}" if age_s > _STALE_AFTER_S else ""

    def _is_stamped_elsewhere(self, file: BinaryIO) -> bool:
        """Whether a process of another host has renewed the stamp not long ago."""
        try:
            stamp = json.loads(file.read())
        except ValueError:
            return False
        renewed_s = os.fstat(file.fileno()).st_mtime
        probe = self._path.with_name(f".clock.{self._host}.{os.getpid()}")
        probe.touch()  # the clock of the file system, which may not be ours
        now_s = probe.stat().st_mtime
        probe.unlink()
        return stamp["host"] != self._host and now_s - renewed_s < _STALE_AFTER_S
