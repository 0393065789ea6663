"""How ranks find each other: rank 0 says in the run directory where they meet.

Ranks of one machine meet in a file that only their user can open, and their sockets listen on the
loopback interface alone. A port would be open to every user of the machine, on loopback, too; who
joins there as a rank can send the pickles that PyTorch's distributed checkpoint reads.

Ranks of several nodes meet on a port of rank 0. No port is guessed and no list of hosts is parsed:
rank 0 listens on a port that the system gives it. PyTorch's store, gloo, NCCL and the distributed
checkpoint ask nobody who he is: such a training trusts all who reach its nodes' ports. The sign
tells another job that has got the port by chance, and keeps nobody out.

Where they meet stands in the directory of the attempt, which is another one each time that the job
is started; the others look until it is there. All nodes see the run directory.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]  # not in its __all__
    FileStore,
    Store,
    TCPStore,
)

from tasks.runtime.atomic_files import as_json, replacement
from tasks.runtime.errors import JobError, Reason
from tasks.zero.identity import Identity

RENDEZVOUS = "rendezvous.json"
INTERFACE = "WATERSHED_INTERFACE"
"""Variable with the name of the network interface by which nodes reach each other."""
MEETING = "WATERSHED_MEETING"
"""Variable with the directory in which rank 0 makes its own; who starts the ranks removes it."""

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"

_LOOPBACK = "127.0.0.1"
_SIGN = "sign"
_POLL_S = 0.05
_SIOCGIFADDR = 0xC0206921 if sys.platform == "darwin" else 0x8915  # IPv4 address of an interface
_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def join(
    identity: Identity, attempt: Path, *, device: torch.device, is_one_node: bool, timeout_s: int
) -> None:
    """Make the default process group of all ranks: gloo on CPUs, NCCL on GPUs.

    Args:
        identity: Of this rank.
        attempt: Directory of the attempt, which exists.
        device: What this rank computes with.
        is_one_node: Whether no rank lies on another node.
        timeout_s: How long a rank waits for another one in a collective.

    Raises:
        JobError: The network interface that is needed has no address, or the ranks of a machine
            have no place to meet.
        OSError: That place cannot be made.
        DistStoreError: The ranks do not come together in time.
        RuntimeError: They do not come together for another reason.
    """
    timeout = timedelta(seconds=timeout_s)
    # A topology may pretend nodes where all ranks were started by one process.
    is_one_machine = is_one_node or identity.num_local == identity.num_ranks
    if interface := loopback_interface() if is_one_machine else os.environ.get(INTERFACE):
        for name in (_GLOO, _NCCL):
            os.environ.setdefault(name, interface)
    if identity.rank != 0:
        store = find_store(attempt, timeout)
    elif is_one_machine:
        store = open_private_store(attempt, timeout)
    else:
        store = open_store(attempt, own_address(os.environ), timeout)
    try:
        _make_group(identity, store, device, timeout)
    except RuntimeError as error:
        if "imeout" in str(error) and not isinstance(error, dist.DistError):
            raise dist.DistStoreError(str(error)) from error  # as a store on a port has it
        raise


def _make_group(identity: Identity, store: Store, device: torch.device, timeout: timedelta) -> None:
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=identity.rank,
        world_size=identity.num_ranks,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )


def open_private_store(attempt: Path, timeout: timedelta) -> FileStore:
    """Make a file that only this user can open, and say where.

    Not in the run directory, whose file system may have no locks (Lustre), but in ``TMPDIR``.

    Args:
        attempt: Directory of the attempt.
        timeout: How long a rank waits for what another one is to put there.

    Returns:
        The store.

    Raises:
        JobError: Files cannot be locked there.
        OSError: It cannot be made, or said.
    """
    directory = Path(tempfile.mkdtemp(prefix="watershed-", dir=os.environ.get(MEETING)))
    path = directory / "store"
    with path.open("xb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise JobError(
                Reason.RANKS,
                f"files in {directory.parent} cannot be locked ({error.strerror}); set TMPDIR to a "
                "directory on a disk of this machine",
            ) from error
    _say(attempt, {"file": str(path)})
    return _file_store(path, timeout)


def open_store(attempt: Path, address: str, timeout: timedelta) -> TCPStore:
    """Listen on a free port, and say where.

    Args:
        attempt: Directory of the attempt.
        address: By which the other ranks reach this process.
        timeout: How long a rank waits for what another one is to put there.

    Returns:
        The store.

    Raises:
        OSError: It cannot be said.
        DistError: Nothing can be listened on.
    """
    store = TCPStore(address, 0, is_master=True, timeout=timeout, wait_for_workers=False)
    sign = secrets.token_hex(16)
    store.set(_SIGN, sign)
    _say(attempt, {"address": address, "port": store.port, "sign": sign})
    return store


def find_store(attempt: Path, timeout: timedelta) -> Store:
    """Wait until rank 0 says where the ranks meet, and go there.

    It is waited for as long as it takes: rank 0 may have text to pack first, and who supervises it
    ends us, too, if it dies.

    Args:
        attempt: Directory of the attempt.
        timeout: How long a rank waits for what another one is to put there.

    Returns:
        The store.

    Raises:
        JobError: It is a file that this rank does not see, or that others than its user may reach.
        DistNetworkError: A stranger listens there by now.
        DistError: Nobody does.
    """
    # Listed, as NFS then asks its server; it may answer from memory that a file is absent.
    while RENDEZVOUS not in os.listdir(attempt):  # noqa: PTH208  names are enough
        time.sleep(_POLL_S)
    place = json.loads((attempt / RENDEZVOUS).read_bytes())
    if "file" in place:
        return _file_store(_checked(Path(place["file"])), timeout)
    store = TCPStore(place["address"], place["port"], is_master=False, timeout=timeout)
    if store.get(_SIGN).decode() != place["sign"]:
        where = f"{place['address']}:{place['port']}"
        raise dist.DistNetworkError(f"another job listens on {where}; rank 0 has gone")
    return store


def _say(attempt: Path, place: Mapping[str, object]) -> None:
    with replacement(attempt / RENDEZVOUS, is_durable=False) as path:
        path.write_bytes(as_json(place))


def _file_store(path: Path, timeout: timedelta) -> FileStore:
    store = FileStore(str(path))
    store.set_timeout(timeout)
    return store


def _checked(path: Path) -> Path:
    """Return the path of a file in a directory that is this user's alone.

    Rank 0 may be gone and its directory removed: of that name it could be anybody's by now.

    Raises:
        JobError: It is not there, or in a directory that others can reach.
    """
    try:
        directory = path.parent.lstat()
        is_there = path.exists()
    except OSError:
        is_there = False
    if not is_there:
        raise JobError(
            Reason.RANKS,
            f"{path}, where rank 0 waits, is not there for this rank; if rank 0 is alive, set "
            "TMPDIR to a directory that all ranks of this machine see",
        )
    if directory.st_uid != os.geteuid() or directory.st_mode & _OF_OTHERS:
        raise JobError(
            Reason.RANKS, f"{path.parent} is another user's, or open to others; start again"
        )
    return path


def loopback_interface() -> str:
    """Return the name of the interface that only this machine reaches, such as ``lo``.

    Raises:
        JobError: There is none.
    """
    known = [name for _, name in socket.if_nameindex()]
    for name in known:
        with contextlib.suppress(OSError):  # one without an IPv4 address
            if _ipv4_of(name) == _LOOPBACK:
                return name
    raise JobError(
        Reason.RANKS,
        f"no network interface of {', '.join(known)} has the address {_LOOPBACK}, by which ranks "
        "of one machine talk; bring the loopback interface up (see: ip address)",
    )


def own_address(variables: Mapping[str, str]) -> str:
    """Return an address by which other nodes reach this one.

    That of the interface which the user names, for us, gloo or NCCL; else the name that Slurm, or
    this machine, has for itself, whichever the network knows.

    Args:
        variables: Of the environment.

    Returns:
        An IPv4 address or a name.

    Raises:
        JobError: There is no such interface, or no name that the network knows.
    """
    for variable in (INTERFACE, _GLOO):
        if interface := variables.get(variable, ""):
            return _address_of(interface, variable)
    for interface in _chosen_by_nccl(variables.get(_NCCL, "")):
        with contextlib.suppress(OSError):  # one without an IPv4 address
            return _ipv4_of(interface)
    names = [name for name in (variables.get("SLURMD_NODENAME"), socket.gethostname()) if name]
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            continue
        return name
    raise JobError(
        Reason.RANKS,
        f"the network does not know {' or '.join(names)}; set {INTERFACE} to the network interface "
        "by which the nodes reach each other (see: ip address)",
    )


def _address_of(interface: str, variable: str) -> str:
    name = interface.split(",", maxsplit=1)[0]
    try:
        return _ipv4_of(name)
    except OSError as error:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise JobError(
            Reason.RANKS,
            f"{variable}={interface}: {error.strerror}; this machine has {known}; set {INTERFACE} "
            "to one by which the nodes reach each other",
        ) from error


def _chosen_by_nccl(words: str) -> list[str]:
    """Return the interfaces of this machine that NCCL's variable names, as NCCL documents it.

    A list of prefixes or, after an equals sign, of names. After a caret it says which ones are not
    to be used, and names none.
    """
    if words.startswith("^"):
        return []
    wanted = tuple(filter(None, words.removeprefix("=").split(",")))
    known = [name for _, name in socket.if_nameindex()]
    if words.startswith("="):
        return [name for name in known if name in wanted]
    return [name for name in known if name.startswith(wanted)]


def _ipv4_of(interface: str) -> str:
    """Ask the system for the address of an interface.

    Raises:
        OSError: It has none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, asked)[20:24])
