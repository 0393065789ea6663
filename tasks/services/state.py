"""What ``watershed up`` has written down about itself: ``services.json`` in the data directory.

Whether it is still up is told by a lock, which goes with the process that holds it, however that
ends. A lock of another host need not be seen here, so the file is also touched now and then.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.runtime.atomic_files import write_json
from tasks.services.errors import ServicesError
from tasks.services.processes import Process, boot_id, is_running
from tasks.services.web import is_loopback

STATE_NAME = "services.json"
LOCK_NAME = "services.lock"
BEAT_S = 10.0
"""How often the file is touched while ``up`` is up."""
_FRESH_S = 60.0
_TRIES, _BETWEEN_S = 5, 0.1


class KeptProcess(BaseModel):
    """One process that ``up`` has started.

    Attributes:
        name: What it is, such as ``Prefect server``.
        pid: Its number.
        start_ticks: When it was started, see ``Process``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pid: int
    start_ticks: int


class Services(BaseModel):
    """Servers that are up, or were.

    Attributes:
        phase: How far ``up`` has come.
        host: Where it runs.
        boot_id: Tells that boot of the machine from others.
        pid: Of ``up``.
        started: When it was started.
        prefect_api: Address for PREFECT_API_URL, without a password.
        prefect_ui: What a person opens.
        mlflow: Address, or URI, for MLFLOW_TRACKING_URI, without a password.
        pool: The work pool that the worker serves.
        worker: Name of the worker; empty if there is none.
        is_external: Whether the servers are not ours.
        has_login: Whether servers of ours ask for the login of the data directory.
        processes: What has been started.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: Literal["starting", "up", "stopping"]
    host: str
    boot_id: str
    pid: int
    started: datetime
    prefect_api: str
    prefect_ui: str
    mlflow: str
    pool: str
    worker: str
    is_external: bool
    has_login: bool = False
    processes: tuple[KeptProcess, ...] = ()

    @property
    def is_reachable(self) -> bool:
        """Whether the addresses mean on this host what they mean on theirs."""
        hosts = [urlsplit(url).hostname or "" for url in (self.prefect_ui, self.mlflow)]
        return self.host == socket.gethostname() or not any(map(is_loopback, hosts))


def write_services(data: Path, services: Services) -> None:
    """Write down what is up.

    Args:
        data: The data directory.
        services: What is.

    Raises:
        OSError: It cannot be written.
    """
    write_json(data / STATE_NAME, services.model_dump(mode="json"))


def read_services(data: Path) -> Services | None:
    """Return what was written last, up or not; None if nothing was, or not by this version.

    Args:
        data: The data directory.
    """
    try:
        return Services.model_validate_json((data / STATE_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def find_services(data: Path) -> Services | None:
    """Return what is up in a data directory, or is coming up; None if nothing is.

    Args:
        data: The data directory.
    """
    services = read_services(data)
    if services is None or not _is_alive(data, services):
        return None
    return services


def _is_alive(data: Path, services: Services) -> bool:
    return _is_locked(data) or (services.host != socket.gethostname() and _is_fresh(data))


def _is_fresh(data: Path) -> bool:
    try:
        return time.time() - (data / STATE_NAME).stat().st_mtime < _FRESH_S
    except OSError:
        return False


def _is_locked(data: Path) -> bool:
    try:
        with (data / LOCK_NAME).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except OSError:
        return False


@contextmanager
def claimed(data: Path) -> Iterator[bool]:
    """Claim a data directory for the time of a block.

    Args:
        data: The data directory; it must exist.

    Yields:
        Whether it is ours now; if not, ``find_services`` says whose it is.

    Raises:
        OSError: The directory cannot be written to.
    """
    with (data / LOCK_NAME).open("ab") as lock:
        is_ours = _lock(lock.fileno())
        if is_ours and (other := read_services(data)) is not None:
            is_ours = other.host == socket.gethostname() or not _is_fresh(data)
        yield is_ours


def _lock(descriptor: int) -> bool:
    """Take the lock; who looks whether it is held holds it for an instant."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_BETWEEN_S)
        else:
            return True
    return False


def beat(data: Path) -> None:
    """Show to other hosts that ``up`` is still up.

    Args:
        data: The data directory.
    """
    with contextlib.suppress(OSError):  # a full disk is told elsewhere
        os.utime(data / STATE_NAME)


def forget_services(data: Path) -> None:
    """Remove what was written down.

    Args:
        data: The data directory.
    """
    with contextlib.suppress(OSError):
        (data / STATE_NAME).unlink()


def leftovers(services: Services) -> list[KeptProcess]:
    """Return what an ``up`` that is no more has left running on this host.

    Args:
        services: What it has written down.

    Raises:
        ServicesError: It was on another host, whose processes nobody sees from here.
    """
    if services.host != socket.gethostname():
        raise ServicesError(
            f"the servers of this directory were started on {services.host}; stop them there, or "
            f"remove {STATE_NAME} if that machine is gone"
        )
    if services.boot_id != boot_id():
        return []
    return [one for one in services.processes if is_running(Process(one.pid, one.start_ticks))]
