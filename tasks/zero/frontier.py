"""Frontier: a 20B GPT on 8 to 78,848 GCDs, from one calibration at 384 (dossier ZeRO-topo, 3).

The paper's published ratios at 384 GCDs (1.405, 1.707) fit two numbers: the shares of their peaks
that the links between nodes and inside a node reach. All else is from ``frontier.yaml``, or assumed
and said in ``Assumptions``. The published scaling efficiency (0.94) is held out: predicted, then
compared. The paper's model shapes, micro-batch, accumulation and software are not known.

Who is compared: ZeRO-3 and ZeRO++ as DeepSpeed has them (flat gathers by RCCL rings, gradients
summed in 2 bytes), ZeRO-topo as our engine has it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from configs.topology import Topology, load_topology
from configs.training import TrainingExperiment
from configs.transport import Wire
from tasks.zero.cost_model import step_costs
from tasks.zero.costs.timeline import Times, deep_step_times, total_s

RATIOS = (1.405, 1.707)
"""ZeRO++ over ZeRO-3, and ZeRO-topo over ZeRO++, in TFLOPS per GCD at 384 GCDs: published."""
EFFICIENCY = 0.94
"""Scaling efficiency of ZeRO-topo up to 384 GCDs: published; from which size is not known."""
CALIBRATED = 384
"""GCDs of the calibration."""
NODE = 8
MODEL, LAYERS, SEQUENCE = "gpt-20b", 44, 2048
_STARTS = ((0.2, 0.3), (0.1, 0.15), (0.6, 0.3))
_TOLERANCE = 1e-5
_STEP = 1e-3
_MOST_ROUNDS = 25


@dataclass(frozen=True)
class Assumptions:
    """What is neither published nor fitted.

    Attributes:
        micro_batch: Sequences; 1.
        accumulation: Micro-batches of a train step; 16.
        prefetch: Blocks whose weights are gathered ahead; 0, so that every gather is waited for.
            We found no bandwidths that give both ratios where gathers are hidden.
        network_us: Latency of a message between nodes; 20 us, as Calculon has it for NICs of
            A100 nodes. None is public for RCCL on Slingshot.
        inside_us: Latency of a message inside a node; 10 us, as Calculon has it for NVLink.
        tflops: Rate of transformer blocks; 73.5, which Dash et al. reached with 22B parameters.
        package: Share of the peak inside a package; 0.81, the best measured.
        kept_wire: Format of ZeRO++'s gathers inside a node; ``full`` (2 bytes), as the paper of
            ZeRO++ counts. In DeepSpeed's code of today it is INT8: then nothing fits.
        transport: Of ZeRO-topo; INT8, INT4, and its traffic between nodes in 2 bytes.
        algorithm: Of gathers, and of sums by the backend; RCCL has rings only. Exchanges (what is
            quantized, and ZeRO-topo's sync in 2 bytes) have a message for each partner.
    """

    micro_batch: int = 1
    accumulation: int = 16
    prefetch: int = 0
    network_us: float = 20.0
    inside_us: float = 10.0
    tflops: float = 73.5
    package: float = 0.81
    kept_wire: Wire = "full"
    transport: str = "two bytes"
    algorithm: str = "ring"


TRANSPORTS: dict[str, Any] = {
    "two bytes": {"weights": "int8", "gradients": "int4", "sync": "bfloat16"},
    "quantized": "zero_topo_quantized_sync",
}
"""Of ZeRO-topo: what crosses nodes once a step in 2 bytes, or in INT4 and INT8."""


BASE = Assumptions()
LOGARITHMIC = Assumptions(algorithm="recursive")


@dataclass(frozen=True)
class Shares:
    """What is fitted: shares of their peaks that links reach.

    Attributes:
        network: Between nodes, of 100 GB/s a node.
        node: Between packages of a node, of 50 GB/s a GCD.
    """

    network: float
    node: float

    @property
    def network_gb_per_s(self) -> float:
        """Of a node, in each direction."""
        return 100 * self.network

    @property
    def node_gb_per_s(self) -> float:
        """Of a GCD, in each direction."""
        return 50 * self.node


@dataclass(frozen=True)
class Contender:
    """Who is compared, on which engine's hops."""

    name: str
    engine: str
    partition: str
    transport: str


ZERO3 = Contender("ZeRO-3", "deepspeed", "zero3", "full")
ZEROPP = Contender("ZeRO++", "deepspeed", "zeropp", "zeropp")
ZERO_TOPO = Contender("ZeRO-topo", "ours", "zero_topo", "")
CONTENDERS = (ZERO3, ZEROPP, ZERO_TOPO)


@dataclass(frozen=True)
class Point:
    """A contender at a size.

    Attributes:
        times: Seconds of a train step by cause.
        tflops: Of a GCD, recomputation included (as GPT-NeoX counts with checkpointing).
    """

    times: Times
    tflops: float


def machine(shares: Shares, assumptions: Assumptions) -> Topology:
    """Return Frontier with links as they are assumed and fitted.

    Args:
        shares: What is fitted.
        assumptions: The rest.
    """
    raw = load_topology("frontier").model_dump()
    package, node = (level["link"] for level in raw["levels"])
    network, device = raw["network"], raw["device"]
    inside = {"latency_us": assumptions.inside_us, "algorithm": assumptions.algorithm}
    package |= inside | {"efficiency": assumptions.package}
    node |= inside | _reached(node["gb_per_s"], shares.node)
    network |= {"latency_us": assumptions.network_us, "algorithm": assumptions.algorithm}
    network |= _reached(network["gb_per_s"], shares.network)
    (rate,) = device["rates"]["bfloat16"]
    rate["tflops"] = assumptions.tflops
    raw["fitted_prefetch"] = assumptions.prefetch
    return Topology.model_validate(raw)


def _reached(peak: float, share: float) -> dict[str, float]:
    """Write a share of a peak; the search may look beyond 1, where efficiencies end."""
    return {"gb_per_s": peak * max(share, 1.0), "efficiency": min(share, 1.0)}


@lru_cache(maxsize=4096)
def point(contender: Contender, num_ranks: int, shares: Shares, assumptions: Assumptions) -> Point:
    """Predict a contender at a size.

    Args:
        contender: Who.
        num_ranks: GCDs, a multiple of 8.
        shares: What is fitted.
        assumptions: The rest.
    """
    experiment = training(contender, num_ranks, machine(shares, assumptions), assumptions)
    costs = step_costs(experiment, kept_wire=assumptions.kept_wire)
    times = deep_step_times(costs, LAYERS, assumptions.accumulation)
    sequences = assumptions.micro_batch * assumptions.accumulation
    whole = training(
        contender, num_ranks, experiment.topology, assumptions, layers=LAYERS
    ).model.hardware_flops(SEQUENCE, recompute=True)
    return Point(times, sequences * whole / total_s(times) / 1e12)


def training(
    contender: Contender,
    num_ranks: int,
    topology: Topology,
    assumptions: Assumptions,
    *,
    layers: int = 1,
) -> TrainingExperiment:
    """Return the training of a contender.

    Args:
        contender: Who.
        num_ranks: GCDs.
        topology: The machine.
        assumptions: The rest.
        layers: Blocks.
    """
    return TrainingExperiment.model_validate(
        {
            "kind": "training",
            "model": {"preset": MODEL, "layers": layers},
            "sequence": SEQUENCE,
            "ranks": num_ranks,
            "topology": topology,
            "engine": contender.engine,
            "partition": contender.partition,
            "transport": contender.transport or TRANSPORTS[assumptions.transport],
            "micro_batch": assumptions.micro_batch,
            "accumulation": assumptions.accumulation,
            "dtype": "bfloat16",
            "recompute": True,
            "prefetch": assumptions.prefetch,
        }
    )


def ratios(
    shares: Shares, assumptions: Assumptions, num_ranks: int = CALIBRATED
) -> tuple[float, float]:
    """Return ZeRO++ over ZeRO-3, and ZeRO-topo over ZeRO++, in TFLOPS per GCD.

    Args:
        shares: What is fitted.
        assumptions: The rest.
        num_ranks: GCDs.
    """
    zero3, zeropp, topo = (
        point(contender, num_ranks, shares, assumptions).tflops for contender in CONTENDERS
    )
    return zeropp / zero3, topo / zeropp


def efficiency(contender: Contender, base: int, shares: Shares, assumptions: Assumptions) -> float:
    """Return TFLOPS per GCD at 384 over those at a smaller size.

    Args:
        contender: Who.
        base: The smaller size, GCDs.
        shares: What is fitted.
        assumptions: The rest.
    """
    large, small = (
        point(contender, num_ranks, shares, assumptions).tflops for num_ranks in (CALIBRATED, base)
    )
    return large / small


def fit(assumptions: Assumptions) -> Shares | None:
    """Find the shares at which both ratios are the published ones (Newton, in logarithms).

    Args:
        assumptions: The rest.

    Returns:
        The shares, which may be above 1 and so impossible; None where there are none.
    """
    for start in _STARTS:
        found = _newton(lambda shares: ratios(shares, assumptions), start)
        if found is not None:
            return found
    return None


def _newton(
    both: Callable[[Shares], tuple[float, float]], start: tuple[float, float]
) -> Shares | None:
    where = np.log(start)

    def off(at: np.ndarray) -> np.ndarray:
        return np.log(both(Shares(*map(float, np.exp(at))))) - np.log(RATIOS)

    for _ in range(_MOST_ROUNDS):
        missing = off(where)
        if np.abs(missing).max() < _TOLERANCE:
            return Shares(*map(float, np.exp(where)))
        columns = [(off(where + step) - missing) / _STEP for step in np.eye(2) * _STEP]
        try:
            change = np.linalg.solve(np.array(columns).T, -missing)
        except np.linalg.LinAlgError:
            return None
        where = where + change * min(1.0, 0.5 / np.abs(change).max())
        if np.abs(where).max() > np.log(1e4):
            return None
    return None


def scaled(shares: Shares, network: float, node: float) -> Shares:
    """Return other shares.

    Args:
        shares: Those to change.
        network: Factor between nodes.
        node: Factor inside a node.
    """
    return Shares(shares.network * network, shares.node * node)


def changed(assumptions: Assumptions, **changes: Any) -> Assumptions:  # noqa: ANN401
    """Return other assumptions.

    Args:
        assumptions: Those to change.
        changes: Fields.
    """
    return replace(assumptions, **changes)
