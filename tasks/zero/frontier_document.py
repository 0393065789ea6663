"""Tables and figures of docs/frontier.md: computes all of them, and writes them into it.

python -m tasks.zero.frontier_document
"""

import itertools
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from tasks.zero.frontier import (
    BASE,
    CALIBRATED,
    CONTENDERS,
    EFFICIENCY,
    LOGARITHMIC,
    NODE,
    RATIOS,
    ZERO3,
    ZERO_TOPO,
    ZEROPP,
    Assumptions,
    Contender,
    Shares,
    changed,
    efficiency,
    fit,
    point,
    ratios,
    scaled,
)
from tasks.zero.frontier_figures import draw_scaling, draw_sensitivity
from tasks.zero.frontier_memory import fits, gcd_bytes, largest_model, needed_bytes

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = DOCS / "frontier.md"
FIGURES = DOCS / "figures"
SHOWN = (8, 16, 64, 384, 1536, 6144, 24_576, 78_848)
VARIANTS: dict[str, dict[str, object]] = {
    "base: micro-batch 1, accumulation 16": {},
    "accumulation 4": {"accumulation": 4},
    "accumulation 8": {"accumulation": 8},
    "accumulation 32": {"accumulation": 32},
    "micro-batch 2": {"micro_batch": 2},
    "micro-batch 4, accumulation 8": {"micro_batch": 4, "accumulation": 8},
    "no latency": {"network_us": 0.0, "inside_us": 0.0},
    "50 us between nodes": {"network_us": 50.0},
    "60 TFLOPS": {"tflops": 60.0},
    "90 TFLOPS": {"tflops": 90.0},
    "half of the peak inside a package": {"package": 0.5},
    "ZeRO++ gathers INT8 inside a node": {"kept_wire": "int8"},
    "ZeRO-topo quantizes across nodes, too": {"transport": "quantized"},
    "one block is gathered ahead": {"prefetch": 1},
}
"""Other assumptions, under each of which the two shares are fitted anew."""
CHANGES: dict[str, tuple[dict[str, object], tuple[float, float]]] = {
    "as calibrated": ({}, (1, 1)),
    "accumulation 1": ({"accumulation": 1}, (1, 1)),
    "accumulation 4": ({"accumulation": 4}, (1, 1)),
    "accumulation 64": ({"accumulation": 64}, (1, 1)),
    "micro-batch 2": ({"micro_batch": 2}, (1, 1)),
    "micro-batch 4": ({"micro_batch": 4}, (1, 1)),
    "no latency": ({"network_us": 0.0, "inside_us": 0.0}, (1, 1)),
    "twice the latency": ({"network_us": 40.0, "inside_us": 20.0}, (1, 1)),
    "half the bandwidth between nodes": ({}, (0.5, 1)),
    "twice the bandwidth between nodes": ({}, (2, 1)),
    "half the bandwidth inside nodes": ({}, (1, 0.5)),
    "twice the bandwidth inside nodes": ({}, (1, 2)),
    "one block is gathered ahead": ({"prefetch": 1}, (1, 1)),
}
"""What changes from the calibrated model: assumptions, and factors of the two bandwidths."""
_BASES = {2: "two nodes", 8: "eight nodes", 1: "one node"}
"""Nodes from which the scaling efficiency is counted; first the least on which all fits."""


@lru_cache(maxsize=1)
def calibrated() -> Shares:
    """Return the fitted shares under the base assumptions.

    Raises:
        RuntimeError: There are none.
    """
    shares = fit(BASE)
    if shares is None:
        raise RuntimeError("no bandwidths give the published ratios under the base assumptions")
    return shares


def calibration_table() -> str:
    """Say what was fitted, and to what."""
    shares = calibrated()
    found = ratios(shares, BASE)
    rows = [
        ("ZeRO++ over ZeRO-3 at 384 GCDs", "calibration", f"{RATIOS[0]:.3f}", f"{found[0]:.3f}"),
        ("ZeRO-topo over ZeRO++ at 384 GCDs", "calibration", f"{RATIOS[1]:.3f}", f"{found[1]:.3f}"),
    ]
    for nodes, words in _BASES.items():
        what = f"scaling efficiency of ZeRO-topo, 384 GCDs against {words}"
        if not fits(ZERO_TOPO, nodes * NODE, BASE):
            needed = needed_bytes(ZERO_TOPO, nodes * NODE, BASE)
            what += f" ({needed / 1e9:.1f} GB of {gcd_bytes() / 1e9:.0f}: does not fit)"
        rows.append((what, "held out", f"{EFFICIENCY:.2f}", _efficiency(nodes, shares, BASE)))
    return _table(("quantity", "set", "published", "model"), rows)


def _efficiency(nodes: int, shares: Shares, assumptions: Assumptions) -> str:
    """Say how ZeRO-topo scales from some nodes to 384 GCDs; in brackets where it does not fit."""
    value = efficiency(ZERO_TOPO, nodes * NODE, shares, assumptions)
    return _marked(f"{value:.3f}", nodes * NODE, assumptions, ZERO_TOPO)


def _marked(text: str, size: int, assumptions: Assumptions, *contenders: Contender) -> str:
    """Put what does not fit in memory in brackets."""
    return text if all(fits(one, size, assumptions) for one in contenders) else f"({text})"


def fitted_table() -> str:
    """Say which values were found, and between which ones the dossier expects them."""
    shares = calibrated()
    rows = [
        (
            "between nodes, of 100 GB/s a node",
            f"{shares.network:.4f}",
            f"{shares.network_gb_per_s:.1f} GB/s a node",
            "7 to 15",
        ),
        (
            "between packages of a node, of 50 GB/s a GCD",
            f"{shares.node:.4f}",
            f"{shares.node_gb_per_s:.1f} GB/s a GCD",
            "4 to 19",
        ),
    ]
    return _table(("link", "efficiency", "that is", "expected"), rows)


def points_table() -> str:
    """List TFLOPS per GCD by size."""
    shares = calibrated()
    rows = []
    for size in SHOWN:
        values = [point(one, size, shares, BASE).tflops for one in CONTENDERS]
        values.append(point(ZERO_TOPO, size, shares, LOGARITHMIC).tflops)
        who = (*CONTENDERS, ZERO_TOPO)
        cells = [
            _marked(f"{value:.1f}", size, BASE, one) for value, one in zip(values, who, strict=True)
        ]
        for one, two in itertools.pairwise(range(len(CONTENDERS))):
            gain = f"{values[two] / values[one]:.2f}"
            cells.append(_marked(gain, size, BASE, CONTENDERS[one], CONTENDERS[two]))
        rows.append((f"{size:,}", *cells))
    heads = ("GCDs", *(one.name for one in CONTENDERS), "ZeRO-topo, log latency")
    return _table((*heads, "ZeRO++ / ZeRO-3", "ZeRO-topo / ZeRO++"), rows)


def split_table() -> str:
    """List where the time of a train step goes at 384 GCDs, in per cent."""
    shares = calibrated()
    names = {
        "computing": ("compute", "recompute"),
        "quantizing, adding": ("quantize", "interference"),
        "waiting for forward gathers": ("forward",),
        "for backward gathers": ("backward",),
        "for gradients": ("gradients",),
        "sync and refresh": ("sync", "refresh"),
        "optimizer": ("optimizer",),
    }
    columns = [point(one, CALIBRATED, shares, BASE).times for one in CONTENDERS]
    rows = [("seconds of a step", *(f"{sum(times.values()):.1f}" for times in columns))]
    for name, causes in names.items():
        parts = [sum(times[cause] for cause in causes) / sum(times.values()) for times in columns]
        rows.append((name, *(f"{part:.1%}" for part in parts)))
    return _table(("", *(one.name for one in CONTENDERS)), rows)


def variants_table() -> str:
    """Fit anew under other assumptions, and predict what is held out."""
    rows = []
    for name, changes in VARIANTS.items():
        assumptions = changed(BASE, **changes)
        shares = fit(assumptions)
        if shares is None:
            rows.append((name, *["none"] * 2, *[""] * 3))
            continue
        values = [point(one, CALIBRATED, shares, assumptions).tflops for one in CONTENDERS]
        held_out = [_efficiency(nodes, shares, assumptions) for nodes in (2, 8)]
        rows.append(
            (
                name,
                f"{shares.network_gb_per_s:.1f}",
                f"{shares.node_gb_per_s:.1f}",
                " / ".join(f"{value:.0f}" for value in values),
                *held_out,
            )
        )
    heads = ("assumption", "GB/s a node", "GB/s a GCD inside", "TFLOPS a GCD")
    return _table((*heads, "efficiency from 2 nodes", "from 8 nodes"), rows)


def sensitivity_table() -> str:
    """Change one thing at a time, and leave the fitted values as they are."""
    rows = []
    for name, (changes, factors) in CHANGES.items():
        assumptions, shares = changed(BASE, **changes), scaled(calibrated(), *factors)
        found = ratios(shares, assumptions)
        held_out = _efficiency(2, shares, assumptions)
        rows.append((name, *(f"{value:.2f}" for value in found), held_out))
    heads = ("change", "ZeRO++ / ZeRO-3", "ZeRO-topo / ZeRO++")
    return _table((*heads, "efficiency from 2 nodes"), rows)


def losses_table() -> str:
    """Compare ZeRO-topo with the others by accumulation and size."""
    shares = calibrated()
    rows = []
    for size in (NODE, 2 * NODE, 8 * NODE, CALIBRATED):
        for transport in ("two bytes", "quantized"):
            cells = []
            for accumulation in (1, 2, 4, 16):
                assumptions = changed(BASE, accumulation=accumulation, transport=transport)
                topo, zeropp, zero3 = (
                    point(one, size, shares, assumptions).tflops
                    for one in (ZERO_TOPO, ZEROPP, ZERO3)
                )
                gains = f"{topo / zeropp:.2f} / {topo / zero3:.2f}"
                cells.append(_marked(gains, size, assumptions, *CONTENDERS))
            rows.append((f"{size}", transport, *cells))
    heads = ("GCDs", "across nodes", *(f"accumulation {n}" for n in (1, 2, 4, 16)))
    return _table(heads, rows)


def bytes_table() -> str:
    """Compare bytes at peak links: ZeRO-topo over ZeRO++, with gathers ahead."""
    rows = []
    peak = Shares(1.0, 1.0)
    for accumulation in (1, 2, 4, 16):
        cells = []
        for transport in ("two bytes", "quantized"):
            assumptions = changed(
                BASE, accumulation=accumulation, transport=transport, prefetch=1, package=1.0
            )
            cells.append(f"{ratios(peak, assumptions)[1]:.2f}")
        rows.append((f"{accumulation}", *cells))
    return _table(("accumulation", "two bytes", "quantized"), rows)


def memory_table() -> str:
    """List the largest model whose states alone fill the memory of a GCD."""
    rows = []
    for size in (8, 16, 64, 384, 78_848):
        largest = [largest_model(row, size) for row in ("zero3", "zeropp", "zero_topo")]
        rows.append((f"{size:,}", *(f"{one / 1e9:.1f}" for one in largest)))
    return _table(("GCDs", "ZeRO-3", "ZeRO++", "ZeRO-topo"), rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "calibration": calibration_table,
    "fitted": fitted_table,
    "split": split_table,
    "points": points_table,
    "sensitivity": sensitivity_table,
    "variants": variants_table,
    "losses": losses_table,
    "peak": bytes_table,
    "memory": memory_table,
}
"""Tables of the document, by the name of their place in it."""


def section(text: str, name: str) -> str:
    """Return what stands in a place of the document.

    Args:
        text: The document.
        name: One of ``SECTIONS``.

    Raises:
        ValueError: There is no such place.
    """
    match = _place(name).search(text)
    if match is None:
        raise ValueError(f"no place for '{name}'; add <!-- {name} --> and <!-- end {name} -->")
    return match[1].strip()


def written(text: str) -> str:
    """Return the document with all its tables computed anew.

    Args:
        text: As it is.

    Raises:
        ValueError: A table has no place in it.
    """
    for name, table in SECTIONS.items():
        section(text, name)
        text = _place(name).sub(f"<!-- {name} -->\n{table()}\n<!-- end {name} -->", text)
    return text


def _place(name: str) -> re.Pattern[str]:
    return re.compile(f"<!-- {name} -->\n(.*?)<!-- end {name} -->", re.DOTALL)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Write the tables and the figures."""
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    draw_scaling(calibrated(), FIGURES / "frontier-scaling.png")
    draw_sensitivity(calibrated(), FIGURES / "frontier-sensitivity.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
