"""Figures of docs/frontier.md."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tasks.zero.frontier import (
    BASE,
    CALIBRATED,
    CONTENDERS,
    EFFICIENCY,
    LOGARITHMIC,
    NODE,
    RATIOS,
    ZERO_TOPO,
    Assumptions,
    Contender,
    Shares,
    changed,
    point,
    ratios,
    scaled,
)
from tasks.zero.frontier_memory import fits

SIZES = (8, 16, 32, 64, 128, 256, 384, 768, 1536, 3072, 6144, 12_288, 24_576, 49_152, 78_848)
"""GCDs, from one node to the whole machine."""


def draw_scaling(shares: Shares, path: Path) -> None:
    """Draw TFLOPS per GCD by size, from the least that fits to the whole machine.

    Args:
        shares: What is fitted.
        path: Of the PNG file.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for contender in CONTENDERS:
        axes.plot(SIZES, _curve(contender, shares, BASE), marker="o", ms=3, label=contender.name)
    quick = _curve(ZERO_TOPO, shares, LOGARITHMIC)
    axes.plot(SIZES, quick, ls="--", color="C2", label="ZeRO-topo, log latency")
    axes.axvline(CALIBRATED, color="0.7", lw=1)
    axes.annotate("calibration", (CALIBRATED, 2), rotation=90, ha="right", color="0.4", fontsize=8)
    first = point(ZERO_TOPO, 2 * NODE, shares, BASE).tflops
    axes.plot([CALIBRATED], [EFFICIENCY * first], "k*", label="held out: 0.94 of two nodes")
    axes.set(xscale="log", xlabel="GCDs", ylabel="TFLOPS a GCD", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _curve(contender: Contender, shares: Shares, assumptions: Assumptions) -> list[float]:
    """Return TFLOPS by size; no number where it does not fit in memory."""
    return [
        point(contender, size, shares, assumptions).tflops
        if fits(contender, size, assumptions)
        else math.nan
        for size in SIZES
    ]


def draw_sensitivity(shares: Shares, path: Path) -> None:
    """Draw both ratios at 384 GCDs against each assumption and fitted value.

    Args:
        shares: What is fitted.
        path: Of the PNG file.
    """
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    for axes, (name, values, found) in zip(panels, _sweeps(shares), strict=False):
        for index, label in enumerate(("ZeRO++ / ZeRO-3", "ZeRO-topo / ZeRO++")):
            axes.plot(values, [pair[index] for pair in found], marker="o", ms=3, label=label)
        for value in RATIOS:
            axes.axhline(value, color="0.8", lw=1)
        axes.set(xscale="log", xlabel=name, ylim=(0, 3))
        axes.set_xticks(values, [f"{value:.3g}" for value in values])
        axes.minorticks_off()
    for axes in figure.axes:
        axes.set_visible(bool(axes.lines))
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


_Sweep = tuple[str, Sequence[float], list[tuple[float, float]]]


def _sweeps(shares: Shares) -> Iterator[_Sweep]:
    fields = {
        "accumulation": ("accumulation", (1, 2, 4, 8, 16, 32, 64)),
        "micro-batch": ("micro_batch", (1, 2, 4, 8)),
        "latency between nodes, us": ("network_us", (1.0, 5.0, 20.0, 50.0, 100.0)),
    }
    for name, (key, values) in fields.items():
        found = [ratios(shares, changed(BASE, **{key: value})) for value in values]
        yield name, values, found
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)
    outside = [ratios(scaled(shares, factor, 1), BASE) for factor in factors]
    yield "GB/s a node", [shares.network_gb_per_s * factor for factor in factors], outside
    below = factors[:-1]  # the last one is above the peak
    inside = [ratios(scaled(shares, 1, factor), BASE) for factor in below]
    yield "GB/s a GCD inside", [shares.node_gb_per_s * factor for factor in below], inside
