"""From times to a topology: latencies, bandwidths, sharing. Arithmetic only, without torch.

A transfer of b bytes takes ``alpha + b / beta`` seconds. Both are fitted to times at several sizes
so that relative errors count: the largest transfer is no more than the smallest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from configs.topology import CLUSTER, Device, Dtype, Level, Link, Rate, Topology
from tasks.zero.costs.coding import REACHED_SHARE

_GIGA = 1e9
_MICRO = 1e-6
_LEAST_SHARE = 0.02
"""What is smaller cannot be told from noise."""
_UNSEEN = 100
"""Of the largest size's bandwidth: adds 1 % to its time."""
_DIGITS = 3
_USABLE_SHARE = 1e9 / 2**30
"""Of a GPU's memory: 64 GB of 64 GiB, as the files of known machines have it."""


@dataclass(frozen=True)
class Sample:
    """Transfers of one size.

    Attributes:
        num_bytes: That each rank received from others.
        seconds: Time of one.
    """

    num_bytes: float
    seconds: float


@dataclass(frozen=True)
class Line:
    """A fit of times.

    Attributes:
        latency_s: alpha, at least 0.
        bytes_per_s: beta.
    """

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Return the time of a transfer.

        Args:
            num_bytes: Received by a rank.
        """
        return self.latency_s + num_bytes / self.bytes_per_s


def fit_line(samples: Sequence[Sample]) -> Line:
    """Fit latency and bandwidth by least squares of relative errors.

    Args:
        samples: At least two, of distinct sizes, with times above 0.

    Returns:
        The line; where the best one has a negative latency, the best one through the origin; where
        time does not grow with size, all of it is latency, and the bandwidth is more than was seen.

    Raises:
        ValueError: There are too few sizes.
    """
    if len({sample.num_bytes for sample in samples}) < 2:
        raise ValueError(f"{len(samples)} samples of one size; measure two sizes at least")
    # Minimises sum ((a + c b - t) / t)^2 over a and c = 1 / beta: weights 1 / t^2.
    weights = [1 / sample.seconds**2 for sample in samples]
    total = sum(weights)
    mean_b = sum(w * s.num_bytes for w, s in zip(weights, samples, strict=True)) / total
    mean_t = sum(w * s.seconds for w, s in zip(weights, samples, strict=True)) / total
    spread = sum(w * (s.num_bytes - mean_b) ** 2 for w, s in zip(weights, samples, strict=True))
    slope = (
        sum(
            w * (s.num_bytes - mean_b) * (s.seconds - mean_t)
            for w, s in zip(weights, samples, strict=True)
        )
        / spread
    )
    if slope > 0 and (latency_s := mean_t - slope * mean_b) >= 0:
        return Line(latency_s, 1 / slope)
    if slope > 0:
        through = sum(w * s.num_bytes * s.seconds for w, s in zip(weights, samples, strict=True))
        squares = sum(w * s.num_bytes**2 for w, s in zip(weights, samples, strict=True))
        return Line(0.0, squares / through)
    largest = max(sample.num_bytes for sample in samples)
    return Line(mean_t, _UNSEEN * largest / mean_t)


def num_sharers(alone: Line, together: Line, num_ranks: int) -> int:
    """Return how many ranks of a node share one link to others.

    Args:
        alone: What one rank reaches while the others are silent.
        together: What each of them reaches when all are active.
        num_ranks: Of a node.

    Returns:
        The divisor of ``num_ranks`` that explains the slow-down best.
    """
    slowdown = max(1.0, alone.bytes_per_s / together.bytes_per_s)
    divisors = [n for n in range(1, num_ranks + 1) if num_ranks % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / slowdown)))


@dataclass(frozen=True)
class Beside:
    """Other work beside computing.

    Attributes:
        work_s: What it takes by itself.
        lost_s: How much longer computing takes beside it, until both are done.
        is_crowded: Whether ranks outnumber the cores, so that nothing is done beside computing.
    """

    work_s: float
    lost_s: float
    is_crowded: bool = False

    @property
    def share(self) -> float:
        """Computing that is lost for a second of the work.

        From 0, for links that move by themselves; 1, where the two take turns; more, where they
        hinder each other besides (in caches, and by waking each other up).
        """
        share = max(0.0, self.lost_s / self.work_s)
        return 0.0 if share < _LEAST_SHARE else share

    @property
    def own_s(self) -> float:
        """What the work takes, where it is the device's own, and waits for nobody.

        What it takes by itself, or what computing loses, if that is more; where ranks outnumber the
        cores, what is lost tells it surely.
        """
        return self.lost_s if self.is_crowded else max(self.work_s, self.lost_s)


def beside_computing(
    line: Line, small: tuple[float, Beside], large: tuple[float, Beside]
) -> tuple[Line, float]:
    """Return a link as it is beside computing, and its interference.

    Where a collective costs computing more time than it takes by itself (as it wakes threads up,
    and takes their caches), the link is as slow as that: beside computing is where it is used.

    Args:
        line: As it is by itself.
        small: Bytes that a rank receives in a small collective, and what one is beside computing.
        large: The same of a large one.

    Returns:
        The line, and the share of computing that a large collective takes, 1 at most.
    """
    (few, costs_little), (many, costs_much) = small, large
    slope = max(0.0, (costs_much.lost_s - costs_little.lost_s) / (many - few))
    latency_s = max(line.latency_s, costs_little.lost_s - slope * few)
    return Line(latency_s, 1 / max(slope, 1 / line.bytes_per_s)), min(1.0, costs_much.share)


def message_latency(line: Line, *, num_ranks: int, interference: float, is_ring: bool) -> float:
    """Return the latency of one message, of a collective of several.

    As ``costs.links`` prices it: a ring, and an exchange beside it, has n - 1 messages one after
    the other. Gathers and exchanges are measured, and both are then n - 1 times their mean; what a
    message costs in either alone is not told apart.

    Args:
        line: Of the collective.
        num_ranks: n.
        interference: Of the link: messages that are sent at once cost the device so much each.
        is_ring: Whether n - 1 messages come one after the other, and are not sent at once.
    """
    messages = num_ranks - 1
    return line.latency_s / (messages if is_ring else max(1.0, messages * interference))


@dataclass(frozen=True)
class MeasuredLink:
    """What joins the ranks of a level.

    Attributes:
        line: Latency of one message, and what each rank reaches when all are active.
        sharers: Ranks that share it.
        interference: Share of computing that is lost meanwhile.
    """

    line: Line
    sharers: int
    interference: float


@dataclass(frozen=True)
class MeasuredDevice:
    """What one rank computes while all others of its node do the same.

    Attributes:
        name: For people.
        memory_bytes: Its share of the memory.
        dtype: Of the blocks.
        rates: GFLOPs of a block's forward pass, TFLOPS of its passes.
        copy_bytes_per_s: Read and written by a copy.
        quantize: Bytes that a call of the quantizers reads and writes, and what it takes.
        optimizer: Bytes that the update of a unit reads and writes, and what it takes.
    """

    name: str
    memory_bytes: int
    dtype: Dtype
    rates: Sequence[tuple[float, float]]
    copy_bytes_per_s: float
    quantize: Line
    optimizer: Line


def calibrated(
    topology: Topology, links: dict[str, MeasuredLink], device: MeasuredDevice, *, algorithm: str
) -> Topology:
    """Put measured numbers into a topology.

    Args:
        topology: Says the levels, and what cannot be measured.
        links: By level; those of others stay.
        device: Measured.
        algorithm: Of the collectives.

    Returns:
        The machine as it was measured; bandwidths and times with three digits.
    """
    made = {level: _link(found, algorithm) for level, found in links.items()}
    levels = tuple(
        Level(name=level.name, ranks=level.ranks, link=made.get(level.name, level.link))
        for level in topology.levels
    )
    rates = tuple(
        Rate(gflops=rounded(size), tflops=rounded(rate)) for size, rate in sorted(device.rates)
    )
    measured = Device.model_validate(
        topology.device.model_dump()
        | {
            "name": topology.device.name or device.name,
            "memory_bytes": device.memory_bytes,
            "rates": topology.device.model_dump()["rates"] | {device.dtype: rates},
            # The model takes a share of it for what kernels reach, and a copy is one.
            "memory_gb_per_s": rounded(device.copy_bytes_per_s / REACHED_SHARE / _GIGA),
            "quantize_gb_per_s": rounded(device.quantize.bytes_per_s / _GIGA),
            "quantize_us": rounded(device.quantize.latency_s / _MICRO),
            "optimizer_gb_per_s": rounded(device.optimizer.bytes_per_s / _GIGA),
            "optimizer_us": rounded(device.optimizer.latency_s / _MICRO),
        }
    )
    network = made.get(CLUSTER, topology.network)
    update = {"levels": levels, "network": network, "device": measured, "fitted_prefetch": None}
    return topology.model_copy(update=update)


def with_engine(topology: Topology, *, visit_s: float, collective_s: float) -> Topology:
    """Put the engine's own times into a topology.

    Args:
        topology: As measured so far.
        visit_s: Of each visit of a stage.
        collective_s: Of each collective of a unit.
    """
    times = {"visit_us": visit_s / _MICRO, "collective_us": collective_s / _MICRO}
    update = {name: rounded(value) for name, value in times.items()}
    return topology.model_copy(update={"device": topology.device.model_copy(update=update)})


def _link(found: MeasuredLink, algorithm: str) -> Link:
    # What the ranks reach together: the bandwidth of the link that they share.
    return Link.model_validate(
        {
            "gb_per_s": rounded(found.line.bytes_per_s * found.sharers / _GIGA),
            "shared_by": found.sharers,
            "latency_us": rounded(found.line.latency_s / _MICRO),
            "interference": rounded(found.interference),
            "algorithm": algorithm,
        }
    )


def usable_bytes(memory_bytes: int) -> int:
    """Return what a training may use of a GPU's memory.

    Args:
        memory_bytes: All of it.

    Returns:
        93 % of it. The rest is for what the prediction leaves out: the runtime with its kernels,
        buffers of the communication library, staging of payloads, and fragmentation.
    """
    return round(_USABLE_SHARE * memory_bytes)


def rounded(value: float) -> float:
    """Return a number with three significant digits, as more were not measured."""
    return float(f"{value:.{_DIGITS}g}")
