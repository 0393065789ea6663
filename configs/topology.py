"""A machine as nested levels of ranks (two GCDs to a package, eight to a node), from a file.

Ranks are numbered so that those of one package are neighbours, and those of one node; Slurm's
block distribution, its default, does so.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from configs.base import Fault, Number, PositiveFloat, Record, Weight, Whole, raise_faults
from configs.faults import faults_in, nearest
from configs.scripts import refused

NODE = "node"
CLUSTER = "cluster"
"""Name of the level above the node: all ranks, when they are on several nodes."""

_SHIPPED = Path(__file__).parent / "topologies"

Dtype = Literal["float64", "float32", "bfloat16"]


class Link(Record):
    """What joins the ranks of one level; together with the bytes it tells how long they take."""

    gb_per_s: PositiveFloat = Field(
        description="Peak bandwidth in each direction, GB/s (10^9 bytes)."
    )
    shared_by: Whole = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Ranks that share this bandwidth: 2 where two GCDs have one NIC.",
    )
    efficiency: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0, description="Share of the peak that collectives reach."
    )
    latency_us: Weight = Field(
        default=0.0,
        description="Of one message, microseconds: each hop of a ring pays it, and each of the "
        "n - 1 messages of an exchange.",
    )
    interference: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Share of a rank's computing that is lost while the link moves its bytes; 1 "
        "where the same core copies and computes.",
    )
    algorithm: Literal["ring", "recursive", "direct"] = Field(
        default="ring",
        description="Of gathers, and of sums by the backend: n - 1 messages one after the other, "
        "log2 n, or one to each other rank at once. Exchanges, in which quantized gradients and "
        "those in another type travel, have n - 1 messages: at once with direct, else one after "
        "the other.",
    )
    mesh: bool = Field(
        default=False,
        description="Whether each two of what the level joins have a link of their own, without a "
        "switch. gb_per_s is then what a rank has with all others of the level; with fewer of "
        "them it has fewer links. Not of the network.",
    )


class Level(Record):
    """One level of a machine below the cluster."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$", description="Such as package, or node.")
    ranks: Whole = Field(ge=2, le=1_000_000, description="Ranks (devices) in one of them.")
    link: Link | None = Field(
        default=None,
        description="What joins ranks that are together here, but not at the level before.",
    )


class Rate(Record):
    """How fast a device computes pieces of one size."""

    gflops: PositiveFloat = Field(
        description="Size: 10^9 FLOPs of one block's forward pass over one micro-batch."
    )
    tflops: PositiveFloat = Field(description="TFLOPS that its passes reach.")


class Device(Record):
    """What one rank computes with; what is not known is left out."""

    name: str = Field(default="", description="For people.")
    memory_bytes: Whole | None = Field(
        default=None,
        ge=1,
        description="Memory that one rank may use, in bytes: less than there is, for the runtime, "
        "buffers of the communication library and fragmentation.",
    )
    peak_tflops: dict[Dtype, PositiveFloat] = Field(
        default={}, description="Peak of dense matrix products, TFLOPS, by dtype."
    )
    rates: dict[Dtype, tuple[Rate, ...]] = Field(
        default={},
        description="TFLOPS of transformer blocks by size, ascending; between two sizes they are "
        "interpolated in the logarithm of the size, beyond them constant.",
    )
    memory_gb_per_s: PositiveFloat | None = Field(
        default=None, description="Bandwidth of its memory, GB/s; bounds optimizer and quantizers."
    )
    quantize_gb_per_s: PositiveFloat | None = Field(
        default=None,
        description="Bytes that the quantizers read and write, GB/s. Default: 0.8 of the memory's.",
    )
    quantize_us: Weight = Field(
        default=0.0,
        description="Fixed time of quantizing, or of its reverse, microseconds: each call pays it.",
    )
    visit_us: Weight = Field(
        default=0.0,
        description="What the engine itself costs each time that it visits a stage of the model, "
        "forward or backward, microseconds.",
    )
    collective_us: Weight = Field(
        default=0.0,
        description="What the engine itself costs each collective of a unit, beside what its "
        "messages and bytes cost (issuing it, its buffers, its lane, waiting), microseconds.",
    )
    optimizer_gb_per_s: PositiveFloat | None = Field(
        default=None,
        description="Bytes that the update reads and writes, GB/s. Default: 0.8 of the memory's.",
    )
    optimizer_us: Weight = Field(
        default=0.0,
        description="Fixed time of the update of a unit of the model (norm, clipping, the call of "
        "the optimizer), microseconds: each unit pays it once a train step.",
    )
    power_w: PositiveFloat | None = Field(
        default=None, description="Power while it trains, watts, its share of the node included."
    )

    @model_validator(mode="after")
    def _rates_ascend(self) -> "Device":
        raise_faults("Device", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        for dtype, rates in self.rates.items():
            for number, (before, after) in enumerate(itertools.pairwise(rates), start=1):
                if after.gflops <= before.gflops:
                    message = f"{after.gflops:g} is not above {before.gflops:g}, the size before; "
                    message += "list the sizes ascending, each once"
                    yield Fault(path=f"rates.{dtype}.{number}.gflops", message=message)


class Topology(Record):
    """A machine: its levels from the innermost to the node, and its devices."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="Of the machine.")
    description: str = Field(default="", description="What it is, and where its numbers are from.")
    levels: tuple[Level, ...] = Field(
        min_length=1, description="From the innermost to the one named node."
    )
    network: Link | None = Field(default=None, description="What joins nodes, as one rank sees it.")
    device: Device = Field(default=Device(), description="What one rank computes with.")
    fitted_prefetch: Whole | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Where numbers were fitted to published speeds: the prefetch that was assumed. "
        "With another one they promise nothing.",
    )

    @model_validator(mode="after")
    def _levels_nest(self) -> "Topology":
        raise_faults("Topology", list(self._faults()))
        return self

    def _faults(self) -> Iterator[Fault]:
        names = [level.name for level in self.levels]
        for number, (inner, outer) in enumerate(itertools.pairwise(self.levels)):
            if outer.ranks % inner.ranks or outer.ranks == inner.ranks:
                message = f"{outer.ranks} ranks are no multiple (2, 3, ...) of the {inner.ranks} "
                message += f"of a {inner.name}, the level before"
                yield Fault(path=f"levels.{number + 1}.ranks", message=message)
        if names[-1] != NODE:
            yield Fault(path="levels", message=f"ends with '{names[-1]}'; the last one is '{NODE}'")
        if len(set(names)) < len(names) or CLUSTER in names:
            message = f"{', '.join(names)} are no distinct names other than '{CLUSTER}'"
            yield Fault(path="levels", message=f"{message}, which means all nodes")
        if self.network is not None and self.network.mesh:
            message = "nodes are not joined each with each; a mesh is inside a node: leave it out"
            yield Fault(path="network.mesh", message=message)

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a whole node."""
        return self.levels[-1].ranks

    def node_ranks(self, num_ranks: int) -> int:
        """Ranks on each node of a job: all of them, if it fits on one."""
        return min(self.ranks_per_node, num_ranks)

    def level_names(self) -> list[str]:
        """Names of all levels, from the innermost to the cluster."""
        return [*(level.name for level in self.levels), CLUSTER]

    def link(self, level: str) -> Link | None:
        """Return what joins the ranks of a level; None where the file does not say.

        Args:
            level: One of ``level_names()``.
        """
        if level == CLUSTER:
            return self.network
        return next(one.link for one in self.levels if one.name == level)

    def level_of(self, first: int, last: int) -> str:
        """Return the innermost level that holds two ranks, and so all ranks between them.

        Args:
            first: A rank, from 0.
            last: Another one, not smaller.

        Returns:
            The level's name; the cluster's, if they are on two nodes.
        """
        for level in self.levels:
            if first // level.ranks == last // level.ranks:
                return level.name
        return CLUSTER


def load_topology(name: str) -> Topology:
    """Read a machine's file.

    Args:
        name: Name of a shipped topology, such as ``frontier``, or the path of a YAML file.

    Returns:
        The topology.

    Raises:
        ValueError: There is no such file, or it is faulty: all faults, each with its path.
    """
    path = Path(name).expanduser() if is_topology_file(name) else shipped_path(name)
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(shipped_topologies())
        hint = nearest(name, shipped_topologies())
        message = f"{name!r} is no topology{hint}; use {known}, or the path of a YAML file"
        raise ValueError(message) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(  # noqa: TRY004  a faulty file, not a faulty call
            f"{path} holds no mapping; see {_SHIPPED / 'mini.yaml'}"
        )
    named = {"name": path.stem, **raw}
    if faults := _faults_in_file(named):
        listed = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, start=1))
        raise ValueError(f"{path} is faulty: {listed}")
    return Topology.model_validate(named)


def _faults_in_file(named: dict[str, Any]) -> list[Fault]:
    """List all faults of a file; how its levels nest is looked at, too, where a link is faulty."""
    levels = named.get("levels")
    if not isinstance(levels, list) or not all(isinstance(one, dict) for one in levels):
        return faults_in(Topology, named)
    sizes = [{key: one[key] for key in ("name", "ranks") if key in one} for one in levels]
    nesting = faults_in(Topology, {"name": named["name"], "levels": sizes})
    return list(dict.fromkeys([*faults_in(Topology, named), *nesting]))


def is_topology_file(name: str) -> bool:
    """Say whether a topology is named by its file, and is not the name of a shipped one."""
    return "/" in name or name.endswith(".yaml")


def shipped_path(name: str) -> Path:
    """Return where a shipped topology of that name would be."""
    return _SHIPPED / f"{name}.yaml"


def shipped_topologies() -> list[str]:
    """List the names of the shipped topologies."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def _read_if_named(value: Any) -> Any:  # noqa: ANN401  raw YAML: any type arrives here
    if not isinstance(value, str):
        return value
    try:
        return load_topology(value)
    except ValueError as error:
        raise refused(str(error)) from error


TopologyField = Annotated[Topology, BeforeValidator(_read_if_named)]
"""A topology, or the name or path of one; what is read becomes part of the configuration."""
