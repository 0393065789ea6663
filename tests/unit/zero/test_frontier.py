"""The calibration on Frontier: what is fitted, what is predicted, and that the document says so."""

import itertools
import math
import re

import numpy as np
import pytest

from configs.topology import Topology, load_topology
from tasks.zero.cost_model import predict
from tasks.zero.frontier import (
    BASE,
    CALIBRATED,
    CONTENDERS,
    LAYERS,
    LOGARITHMIC,
    NODE,
    RATIOS,
    ZERO3,
    ZERO_TOPO,
    ZEROPP,
    Assumptions,
    Shares,
    changed,
    efficiency,
    machine,
    point,
    ratios,
    scaled,
    training,
)
from tasks.zero.frontier_document import (
    DOCUMENT,
    FIGURES,
    SECTIONS,
    calibrated,
    section,
    written,
)
from tasks.zero.frontier_memory import gcd_bytes, needed_bytes

SLOW = {"variants"}
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_two_numbers_are_fitted_to_two_ratios() -> None:
    """Both ratios are the published ones, and the shares are shares."""
    shares = calibrated()

    assert ratios(shares, BASE) == pytest.approx(RATIOS, rel=1e-4)
    assert 0 < shares.network < 1
    assert 0 < shares.node < 1


def test_what_is_fitted_is_plausible() -> None:
    """At most 20 GB/s a node, where the dossier expects 7 to 15, and 4 to 19 GB/s a GCD (3.4)."""
    shares = calibrated()

    tflops = [point(one, CALIBRATED, shares, BASE).tflops for one in CONTENDERS]

    assert 7 < shares.network_gb_per_s < 20
    assert 4 < shares.node_gb_per_s < 19
    assert tflops == sorted(tflops)
    assert 15 < tflops[0] < tflops[-1] < 73.5


def test_the_held_out_number_is_told_as_it_is() -> None:
    """The model is too optimistic; the text says by how much, from the least size that fits."""
    one, two = (efficiency(ZERO_TOPO, n * NODE, calibrated(), BASE) for n in (1, 2))
    needed = [needed_bytes(ZERO_TOPO, n * NODE, BASE) for n in (1, 2)]
    text = " ".join(TEXT.split())

    assert needed[1] <= gcd_bytes() < needed[0]
    assert "From two nodes, the least on which ZeRO-topo fits" in text
    assert f"the model predicts {two:.3f}; 0.94 is published" in text
    assert two > 0.94
    assert f"by {100 * (two - 0.94):.1f} points" in text
    assert f"From one node it would be {one:.3f}, but {needed[0] / 1e9:.1f} GB are needed" in text


def test_no_variant_comes_near_the_held_out_number() -> None:
    """The text tells the range of the variants' efficiencies, as their table has it."""
    rows = [row.split(" | ") for row in section(TEXT, "variants").splitlines()[2:]]
    found = [float(row[4]) for row in rows if row[1] != "none"]

    assert f"({min(found):.3f} to {max(found):.3f}, see below)" in TEXT
    assert min(found) > 0.94


def test_it_falls_as_the_document_says() -> None:
    """On the whole machine each exchange and each ring has a message for each node."""
    falls = [
        1 - large.tflops / small.tflops
        for assumptions in (BASE, LOGARITHMIC)
        for small, large in [
            [point(ZERO_TOPO, size, calibrated(), assumptions) for size in (CALIBRATED, 78_848)]
        ]
    ]
    text = " ".join(TEXT.split())

    assert f"by {falls[0]:.0%} from 384 GCDs to 78,848".replace("%", " %") in text
    assert f"then it is {falls[1]:.0%}.".replace("%", " %") in text
    assert falls[0] > falls[1] > 0.02


def test_what_does_not_fit_is_in_brackets() -> None:
    """On one node ZeRO-topo's numbers and ratios are marked, no others; on two none is."""
    rows = {row.split(" | ")[0]: row for row in section(TEXT, "points").splitlines()}

    one, two = (rows[f"| {size}"].strip("| ").split(" | ") for size in (8, 16))
    assert [cell.startswith("(") for cell in one[1:]] == [False, False, True, True, False, True]
    assert "(" not in "".join(two)
    losses = section(TEXT, "losses").splitlines()[2:]
    assert all(("(" in row) is row.startswith("| 8 ") for row in losses)


@pytest.mark.parametrize("name", sorted(SECTIONS.keys() - SLOW))
def test_the_document_holds_what_is_computed(name: str) -> None:
    """Each table of docs/frontier.md is what the program makes of the model as it is."""
    assert section(TEXT, name) == SECTIONS[name]()


@pytest.mark.slow
def test_the_variants_of_the_document_are_computed() -> None:
    """So is the table of calibrations under other assumptions."""
    assert section(TEXT, "variants") == SECTIONS["variants"]()
    assert written(TEXT) == TEXT


def test_figures_are_there() -> None:
    """Every figure that the document shows exists."""
    shown = re.findall(r"\(figures/([^)]+)\)", TEXT)

    assert len(shown) == 2
    assert all((FIGURES / name).is_file() for name in shown)


def test_the_shipped_machine_is_the_fitted_one() -> None:
    """frontier-calibrated.yaml has the fitted values, to four digits, and predicts the ratios."""
    shipped, fitted = load_topology("frontier-calibrated"), machine(calibrated(), BASE)
    named = {"name": "frontier", "description": ""}

    assert shipped.model_copy(update=named) == _rounded(fitted.model_copy(update=named))

    for one in (ZERO3, ZERO_TOPO):
        found = predict(training(one, CALIBRATED, shipped, BASE, layers=LAYERS)).hardware_tflops
        assert found == pytest.approx(point(one, CALIBRATED, calibrated(), BASE).tflops, rel=1e-3)


def test_int8_inside_a_node_is_not_what_was_calibrated() -> None:
    """``predict`` has DeepSpeed's INT8 for ZeRO++; the document tells which ratio that gives."""
    shipped = load_topology("frontier-calibrated")

    zero3, zeropp = (
        predict(training(one, CALIBRATED, shipped, BASE, layers=LAYERS)).tflops
        for one in (ZERO3, ZEROPP)
    )

    assert f"gives {zeropp / zero3:.2f} instead of 1.405" in " ".join(TEXT.split())


def _rounded(topology: Topology) -> Topology:
    raw = topology.model_dump()
    for link in (*(level["link"] for level in raw["levels"]), raw["network"]):
        link["efficiency"] = round(link["efficiency"], 4)
    return Topology.model_validate(raw)


@pytest.mark.slow
def test_hidden_gathers_do_not_give_both_ratios() -> None:
    """Where weights are gathered ahead, no shares from 1 to 100 % come near both ratios."""
    shares = np.geomspace(0.01, 1, 14)
    ahead = changed(BASE, prefetch=1)

    missed = min(
        max(abs(math.log(found / wanted)) for found, wanted in zip(pair, RATIOS, strict=True))
        for network, node in itertools.product(map(float, shares), repeat=2)
        for pair in [ratios(Shares(network, node), ahead)]
    )

    told = f"the best misses one of the ratios by {100 * math.expm1(missed):.0f} %"
    assert told in " ".join(TEXT.split())


def test_a_machine_beyond_its_peak_can_be_asked_for() -> None:
    """The search may pass through shares above 1: then the peak itself is larger."""
    link = machine(Shares(2.0, 0.5), Assumptions()).network

    assert link is not None
    assert (link.gb_per_s, link.efficiency) == (50, 1)


def test_it_loses_where_the_document_says() -> None:
    """At the links' peaks ZeRO++ is faster; as calibrated, never, for it waits inside the node."""
    peak = changed(BASE, accumulation=1, prefetch=1, package=1.0)

    assert ratios(Shares(1.0, 1.0), peak)[1] < 0.9
    assert ratios(calibrated(), changed(BASE, accumulation=1))[1] > 1
    assert ratios(scaled(calibrated(), 0.5, 1), changed(BASE, accumulation=1))[1] < 1
