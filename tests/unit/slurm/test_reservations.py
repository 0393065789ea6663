"""Reservations for maintenance: what scontrol prints of them, and whom they keep from starting.

The answers were recorded on a cluster of Slurm 22.05.8 with Unix times.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.launchers import SlurmResources
from tasks.slurm.commands import SlurmCli
from tasks.slurm.parsing import Unreadable
from tasks.slurm.reservations import (
    Reservation,
    blocking,
    node_names,
    parse_nodes,
    parse_reservations,
)
from tests.fakes.scripts import Size
from tests.fakes.slurm import FakeSlurm, Faults

_RECORDED = (
    "ReservationName=upgrade StartTime=1795393181 EndTime=1795396781 Duration=01:00:00 "
    "Nodes=node[01-02] NodeCnt=2 CoreCnt=32 Features=(null) PartitionName=(null) "
    "Flags=MAINT,IGNORE_JOBS,SPEC_NODES TRES=cpu=32 Users=root Groups=(null) Accounts=(null) "
    "Licenses=(null) State=ACTIVE BurstBuffer=(null) Watts=n/a MaxStartDelay=(null)\n"
)
_NODES = {
    "batch": frozenset({"node01", "node02", "node03"}),
    "debug": frozenset({"node01"}),
    "gpu": frozenset({"gpu1"}),
}
_HOUR = 3600


def _maintenance(*nodes: str, start_s: int = 0, end_s: int = _HOUR) -> Reservation:
    return Reservation("upgrade", start_s, end_s, frozenset(nodes), is_maintenance=True)


def _blocked(
    *reservations: Reservation, now_s: float = 10.0, **asked: object
) -> Reservation | None:
    resources = SlurmResources.model_validate({"time_limit": "30", **asked})
    return blocking(resources, reservations, _NODES, default_partition="batch", now_s=now_s)


def test_the_recorded_reservation() -> None:
    """Name, times, nodes and the flag of maintenance."""
    (found,) = parse_reservations(_RECORDED)

    assert found == Reservation(
        "upgrade", 1795393181, 1795396781, frozenset({"node01", "node02"}), is_maintenance=True
    )


def test_other_reservations_are_no_maintenance() -> None:
    """One for a project has other flags; one for licences has no nodes."""
    text = _RECORDED.replace("MAINT,", "").replace("node[01-02]", "(null)")

    (found,) = parse_reservations(text)

    assert not found.is_maintenance
    assert found.nodes == frozenset()


def test_no_reservations() -> None:
    """Slurm says it in words."""
    assert parse_reservations("No reservations in the system\n") == []
    assert parse_reservations("") == []


@given(st.integers(1, len(_RECORDED) - 1))
def test_an_answer_that_is_cut_off_is_unreadable(length: int) -> None:
    """A number may lack digits, so nothing is taken from a line without its end."""
    with pytest.raises(Unreadable, match="scontrol show reservation is cut off"):
        parse_reservations(_RECORDED[:length])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("login", ["login"]),
        ("node[01-03,07],gpu1", ["node01", "node02", "node03", "node07", "gpu1"]),
        ("r[1-2]n[0-1]", ["r1n0", "r1n1", "r2n0", "r2n1"]),
        ("node[098-101]", ["node098", "node099", "node100", "node101"]),
    ],
)
def test_names_of_nodes(text: str, names: list[str]) -> None:
    """As ``scontrol show hostnames`` writes them out."""
    assert node_names(text) == names


@pytest.mark.parametrize("text", ["node[01-]", "node[]", "node[a-b]", "node[0-9999999]"])
def test_what_are_no_nodes(text: str) -> None:
    """A text that is not understood is no list of fewer nodes."""
    with pytest.raises(Unreadable):
        node_names(text)


def test_nodes_of_partitions() -> None:
    """A node may be in several; the star of the default is no part of the name."""
    found = parse_nodes("n1|batch*|\nn1|debug|\nn2|batch*|\n", "|")

    assert found == {"batch": frozenset({"n1", "n2"}), "debug": frozenset({"n1"})}


def test_a_maintenance_of_all_nodes_blocks() -> None:
    """Now, and if it begins before the time limit would end; not after either."""
    everything = _maintenance("node01", "node02", "node03", start_s=1800, end_s=7200)

    assert _blocked(everything, now_s=2000) == everything
    assert _blocked(everything, now_s=100) == everything
    assert _blocked(everything, now_s=0) is None
    assert _blocked(everything, now_s=7200) is None


def test_nodes_that_are_left_may_be_enough() -> None:
    """Two of three nodes are in maintenance: one node is free, two are not."""
    some = _maintenance("node01", "node02")

    assert _blocked(some) is None
    assert _blocked(some, nodes=2) == some
    assert _blocked(some, nodelist="node[02-03]") == some


def test_another_partition_may_be_free() -> None:
    """Of several partitions one that can take the job is enough."""
    some = _maintenance("node01")

    assert _blocked(some, partition="debug") == some
    assert _blocked(some, partition="debug,gpu") is None
    assert _blocked(some, partition="gpu") is None


def test_the_job_of_the_maintenance_itself_is_not_blocked() -> None:
    """Nor is one by a reservation without the flag."""
    own = _maintenance("node01")
    project = Reservation("project", 0, _HOUR, frozenset({"node01"}), is_maintenance=False)

    assert _blocked(own, partition="debug", reservation="upgrade") is None
    assert _blocked(project, partition="debug") is None


def test_the_last_end_is_told() -> None:
    """Two maintenances one after the other: jobs start after the second."""
    first, second = _maintenance("node01"), _maintenance("node01", start_s=1000, end_s=9000)

    assert _blocked(first, second, partition="debug") == second


def test_the_commands_are_asked() -> None:
    """The fake scontrol and sinfo answer as the real ones do."""
    slurm = FakeSlurm(
        size=Size(num_nodes=2), faults=Faults(maintenance=(("upgrade", 0.0, 3600.0, 2),))
    )
    cli = SlurmCli(slurm.run)

    (found,) = cli.reservations()

    assert found.nodes == cli.nodes()["batch"] == {"node01", "node02"}
    assert found.is_maintenance
    slurm.advance(3601)
    assert cli.reservations() == []
