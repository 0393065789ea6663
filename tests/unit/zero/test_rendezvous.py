"""How ranks find each other, without a port that anybody has guessed."""

import json
import socket
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from torch import distributed as dist

from tasks.runtime.errors import JobError
from tasks.zero.rendezvous import (
    INTERFACE,
    MEETING,
    RENDEZVOUS,
    find_store,
    loopback_interface,
    open_private_store,
    open_store,
    own_address,
)

SOON = timedelta(seconds=10)


def test_those_who_come_first_wait_for_rank_0(tmp_path: Path) -> None:
    """They look until it says where it listens; what one puts there the other reads."""
    found = []
    early = threading.Thread(target=lambda: found.append(find_store(tmp_path, SOON)))
    early.start()

    ours = open_store(tmp_path, "127.0.0.1", SOON)
    early.join(10)

    ours.set("key", "value")
    assert found[0].get("key") == b"value"


def test_ranks_of_one_machine_meet_where_nobody_else_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file of a directory that is the user's alone, whatever the directory above allows."""
    tmp_path.chmod(0o777)
    monkeypatch.setenv(MEETING, str(tmp_path))
    found = []
    early = threading.Thread(target=lambda: found.append(find_store(tmp_path, SOON)))
    early.start()

    ours = open_private_store(tmp_path, SOON)
    early.join(10)

    ours.set("key", "value")
    assert found[0].get("key") == b"value"
    place = json.loads((tmp_path / RENDEZVOUS).read_bytes())
    assert set(place) == {"file"}
    directory = Path(place["file"]).parent
    assert directory.parent == tmp_path
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_place_that_a_rank_does_not_see_is_named(tmp_path: Path) -> None:
    """As where each task of Slurm has a /tmp of its own; it isn't waited for."""
    (tmp_path / RENDEZVOUS).write_text(json.dumps({"file": str(tmp_path / "gone" / "store")}))

    with pytest.raises(JobError, match=r"gone/store, where rank 0 waits, .* set TMPDIR to a dir"):
        find_store(tmp_path, SOON)


def test_a_place_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    """Rank 0 has gone, and anybody may have made a directory of its name."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "open" / "store").touch()
    (tmp_path / RENDEZVOUS).write_text(json.dumps({"file": str(tmp_path / "open" / "store")}))

    with pytest.raises(JobError, match=r"open is another user's, or open to others; start again"):
        find_store(tmp_path, SOON)


def test_two_jobs_on_one_machine_have_ports_of_their_own(tmp_path: Path) -> None:
    """The system gives each a free one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    stores = [open_store(tmp_path / name, "127.0.0.1", SOON) for name in ("a", "b")]

    ports = [json.loads((tmp_path / name / RENDEZVOUS).read_bytes())["port"] for name in ("a", "b")]
    assert ports == [store.port for store in stores]
    assert len(set(ports)) == 2


def test_a_stranger_on_the_port_is_noticed(tmp_path: Path) -> None:
    """Rank 0 has died, and another job got its port: its ranks are not joined to ours."""
    (tmp_path / "theirs").mkdir()
    theirs = open_store(tmp_path / "theirs", "127.0.0.1", SOON)
    place = {"address": "127.0.0.1", "port": theirs.port, "sign": "ours"}
    (tmp_path / RENDEZVOUS).write_text(json.dumps(place))

    with pytest.raises(dist.DistNetworkError, match=r"another job listens on 127\.0\.0\.1:"):
        find_store(tmp_path, SOON)


def test_the_interface_that_is_asked_for_is_taken() -> None:
    """By its address, whatever the machine is called."""
    assert own_address({INTERFACE: "lo", "SLURMD_NODENAME": "localhost"}) == "127.0.0.1"


def test_the_loopback_interface_is_found_by_its_address() -> None:
    """Its name is the system's choice."""
    name = loopback_interface()

    assert own_address({INTERFACE: name}) == "127.0.0.1"


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    """So that the right one can be chosen."""
    with pytest.raises(JobError, match=r"WATERSHED_INTERFACE=ib7: .*; this machine has .*lo"):
        own_address({INTERFACE: "ib7"})
    with pytest.raises(JobError, match=r"GLOO_SOCKET_IFNAME=ib7,lo: .* set WATERSHED_INTERFACE to"):
        own_address({"GLOO_SOCKET_IFNAME": "ib7,lo", "SLURMD_NODENAME": "localhost"})


@pytest.mark.parametrize("wanted", ["=lo", "l", "=lo,ib7", "ib7,lo", "lo"])
def test_the_interface_that_nccl_is_given_is_taken(wanted: str) -> None:
    """By a prefix or, after an equals sign, by its name; the first of a list that is there."""
    assert own_address({"NCCL_SOCKET_IFNAME": wanted, "SLURMD_NODENAME": "me"}) == "127.0.0.1"


@pytest.mark.parametrize("wanted", ["hsn", "=l", "^docker0,lo", "^=lo", "^"])
def test_where_nccl_is_given_no_interface_slurms_name_is_used(wanted: str) -> None:
    """Only what is excluded, or a prefix that none has: NCCL says itself what it cannot use."""
    variables = {"NCCL_SOCKET_IFNAME": wanted, "SLURMD_NODENAME": "localhost"}

    assert own_address(variables) == "localhost"


def test_slurms_name_of_the_node_is_used_if_the_network_knows_it() -> None:
    """Else this machine's own name: a slurmd may have one that is no host's."""
    assert own_address({"SLURMD_NODENAME": "localhost"}) == "localhost"
    assert own_address({"SLURMD_NODENAME": "node01.invalid"}) == socket.gethostname()
