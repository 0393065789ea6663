"""How ranks find each other: rank 0 says in the run directory where it listens.

No port is guessed and no list of hosts is parsed. Rank 0 listens on a port that the system gives
it, and writes the address into the directory of the attempt, which is another one each time that
the job is started; the others look until it is there. All nodes see the run directory.
"""

import fcntl
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

from tasks.runtime.atomic_files import as_json, replacement
from tasks.runtime.errors import JobError
from tasks.zero.identity import Identity

RENDEZVOUS = "rendezvous.json"
INTERFACE = "WATERSHED_INTERFACE"
"""Variable with the name of the network interface by which nodes reach each other."""

_LIBRARIES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

_LOOPBACK = "127.0.0.1"
_SIGN = "sign"
_POLL_S = 0.05
_SIOCGIFADDR = 0x8915  # of Linux: the IPv4 address of an interface


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
        JobError: The network interface that was asked for has no address.
        DistError: The ranks do not come together.
    """
    timeout = timedelta(seconds=timeout_s)
    if interface := os.environ.get(INTERFACE):
        for name in _LIBRARIES:
            os.environ.setdefault(name, interface)
    if identity.rank == 0:
        address = _LOOPBACK if is_one_node else own_address(os.environ)
        store = open_store(attempt, address, timeout)
    else:
        store = find_store(attempt, timeout)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=identity.rank,
        world_size=identity.num_ranks,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )


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
    with replacement(attempt / RENDEZVOUS, is_durable=False) as path:
        path.write_bytes(as_json({"address": address, "port": store.port, "sign": sign}))
    return store


def find_store(attempt: Path, timeout: timedelta) -> TCPStore:
    """Wait until rank 0 says where it listens, and connect.

    It is waited for as long as it takes: rank 0 may have text to pack first, and who supervises it
    ends us, too, if it dies.

    Args:
        attempt: Directory of the attempt.
        timeout: How long a rank waits for what another one is to put there.

    Returns:
        The store.

    Raises:
        DistNetworkError: A stranger listens there by now.
        DistError: Nobody does.
    """
    # Listed, as NFS then asks its server; it may answer from memory that a file is absent.
    while RENDEZVOUS not in os.listdir(attempt):  # noqa: PTH208  names are enough
        time.sleep(_POLL_S)
    place = json.loads((attempt / RENDEZVOUS).read_bytes())
    store = TCPStore(place["address"], place["port"], is_master=False, timeout=timeout)
    if store.get(_SIGN).decode() != place["sign"]:
        where = f"{place['address']}:{place['port']}"
        raise dist.DistNetworkError(f"another job listens on {where}; rank 0 has gone")
    return store


def own_address(variables: Mapping[str, str]) -> str:
    """Return an address by which other nodes reach this one.

    That of the interface which the user names; else the name that Slurm, or this machine, has for
    itself, whichever the network knows.

    Args:
        variables: Of the environment.

    Returns:
        An IPv4 address or a name.

    Raises:
        JobError: There is no such interface, or no name that the network knows.
    """
    for variable in (INTERFACE, *_LIBRARIES):
        if interface := variables.get(variable, ""):
            return _address_of(interface, variable)
    names = [name for name in (variables.get("SLURMD_NODENAME"), socket.gethostname()) if name]
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            continue
        return name
    raise JobError(
        "ranks",
        f"the network does not know {' or '.join(names)}; set {INTERFACE} to the network interface "
        "by which the nodes reach each other (see: ip address)",
    )


def _address_of(interface: str, variable: str) -> str:
    name = interface.split(",", maxsplit=1)[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            known = ", ".join(name for _, name in socket.if_nameindex())
            message = f"{variable}={interface}: {error.strerror}; this machine has {known}"
            raise JobError("ranks", message) from error
    return socket.inet_ntoa(answer[20:24])
