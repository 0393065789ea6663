"""Reservations for maintenance, and whether one keeps a job from starting."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from configs.launchers import SlurmResources, time_limit_s
from tasks.slurm.parsing import Unreadable

_NONE = "No reservations in the system"
_FIELD = re.compile(r"(\w+)=(\S*)")
_PIECE = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
_BRACKET = re.compile(r"\[([^\]]*)\]")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_NODES = 1_000_000


@dataclass(frozen=True)
class Reservation:
    """A reservation of nodes.

    Attributes:
        name: Its name.
        start_s: Unix time.
        end_s: Unix time.
        nodes: Names of its nodes; empty for one of licences alone.
        is_maintenance: Whether it has the flag MAINT.
    """

    name: str
    start_s: int
    end_s: int
    nodes: frozenset[str]
    is_maintenance: bool


def parse_reservations(text: str) -> list[Reservation]:
    """Read the answer of ``scontrol --oneliner show reservation``, times as Unix time.

    Args:
        text: What it printed.

    Returns:
        The reservations.

    Raises:
        Unreadable: A line is cut off, or no such answer.
    """
    if text and not text.endswith("\n"):
        raise Unreadable("scontrol show reservation", text.splitlines()[-1])
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith(_NONE):
            continue
        fields = dict(_FIELD.findall(line))
        start, end = fields.get("StartTime", ""), fields.get("EndTime", "")
        if "ReservationName" not in fields or not (start.isdecimal() and end.isdecimal()):
            raise Unreadable("scontrol show reservation", line)
        nodes = fields.get("Nodes", "")
        found.append(
            Reservation(
                name=fields["ReservationName"],
                start_s=int(start),
                end_s=int(end),
                nodes=frozenset() if nodes == "(null)" else frozenset(node_names(nodes)),
                is_maintenance="MAINT" in fields.get("Flags", "").split(","),
            )
        )
    return found


def parse_nodes(text: str, end: str) -> dict[str, frozenset[str]]:
    """Read the answer of ``sinfo --Node`` with the node and its partition.

    Args:
        text: What it printed: a line for each node of each partition.
        end: What stands behind each of the two fields.

    Returns:
        Partition -> its nodes.

    Raises:
        Unreadable: A line is cut off, or no such answer.
    """
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        fields = line.split(end)
        if len(fields) != 3 or fields[2].strip():
            raise Unreadable("sinfo", line)
        found.setdefault(fields[1].strip().removesuffix("*"), set()).add(fields[0].strip())
    return {partition: frozenset(nodes) for partition, nodes in found.items()}


def node_names(text: str) -> list[str]:
    """Write out nodes as Slurm abbreviates them: ``node[01-03,07],gpu1`` (or ``r[1-2]n[0-3]``).

    Args:
        text: The abbreviation; empty for no nodes.

    Returns:
        The names.

    Raises:
        Unreadable: It is no such text.
    """
    names = [name for piece in _PIECE.findall(text) for name in _expanded(piece)]
    if len(names) > _MOST_NODES:
        raise Unreadable("scontrol", text)
    return names


def _expanded(piece: str) -> list[str]:
    bracket = _BRACKET.search(piece)
    if bracket is None:
        return [piece]
    before, after = piece[: bracket.start()], _expanded(piece[bracket.end() :])
    return [f"{before}{number}{rest}" for number in _numbers(bracket[1], piece) for rest in after]


def _numbers(text: str, piece: str) -> Iterable[str]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or int(match[2] or match[1]) - int(match[1]) > _MOST_NODES:
            raise Unreadable("scontrol", piece)
        first, last = match[1], match[2] or match[1]
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def blocking(
    resources: SlurmResources,
    reservations: Sequence[Reservation],
    nodes: Mapping[str, frozenset[str]],
    *,
    default_partition: str,
    now_s: float,
) -> Reservation | None:
    """Return the maintenance that keeps a job from starting now.

    Slurm starts no job on a node that a maintenance takes before the job's time limit would end.
    Of several partitions, one that has enough other nodes will do.

    Args:
        resources: What the job asks for.
        reservations: All reservations of the cluster.
        nodes: Partition -> its nodes.
        default_partition: Where jobs go that name none.
        now_s: Unix time.

    Returns:
        Of those in the way the one that ends last; None if the job can start as far as
        maintenances go.

    Raises:
        Unreadable: What the job asks for names no nodes.
    """
    until_s = now_s + time_limit_s(resources.time_limit)
    in_the_way = [
        one
        for one in reservations
        if one.is_maintenance
        and one.name != resources.reservation
        and one.start_s < until_s
        and one.end_s > now_s
    ]
    required = frozenset(node_names(resources.nodelist or ""))
    excluded = frozenset(node_names(resources.exclude or ""))
    worst: Reservation | None = None
    for partition in (resources.partition or default_partition).split(","):
        usable = nodes.get(partition, frozenset()) - excluded
        found = _blocking(usable, required, resources.nodes, in_the_way)
        if found is None:
            return None
        worst = found if worst is None else max(worst, found, key=lambda one: one.end_s)
    return worst


def _blocking(
    partition: frozenset[str], required: frozenset[str], wanted: int, found: Sequence[Reservation]
) -> Reservation | None:
    """The same for one partition; one without nodes is none's business here."""
    taken = frozenset[str]().union(*(one.nodes for one in found))
    is_short = bool(partition) and len(partition - taken) < wanted
    touching = [one for one in found if one.nodes & (required or partition)]
    if not touching or not (is_short or required & taken):
        return None
    return max(touching, key=lambda one: one.end_s)
