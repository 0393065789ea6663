"""A training whose states travel in 8 and 4 bits ends near the loss of one with fp32 transport."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from configs.data import DATA_ENVIRONMENT, LocationError, locate
from tests.proof.convergence import (
    CONTROL,
    DATA_PATH,
    DOCS,
    EXPERIMENT,
    SEEDS,
    VARIANTS,
    curve_of,
    experiment_of,
    read,
)
from tests.proof.gaps import BASE, Curve, deviation, gaps_over_steps, last_gaps, table
from tests.ranks import RankPool

QUANTIZED = [variant for variant in VARIANTS if variant not in {BASE, CONTROL}]
PLAIN, WITH_FEEDBACK = "INT8 weights, INT4 gradients", "the same with error feedback"

TINY: dict[str, Any] = {
    "model": {"layers": 1, "hidden": 32, "heads": 2},
    "data": "arithmetic",
    "sequence": 32,
    "steps": 30,
    "optimizer": {"lr": 1e-2, "warmup_steps": 3},
    "evaluate_every": 30,
    "evaluate_sequences": 64,
}
# What 30 steps of the tiny training come to from seeds 0, 1 and 2: the loss falls from 5.5 to 2.54,
# quantized within 0.007 of it, and with error feedback within 0.002 of without.
NEAR, NO_WORSE = 0.02, 0.01


def test_quantized_transport_ends_near_the_loss_of_fp32(ranks: Callable[[int], RankPool]) -> None:
    """After 30 steps losses are within 0.02 of fp32's, and error feedback does not add 0.01."""
    variants = [BASE, PLAIN, WITH_FEEDBACK, "INT8 weights, Hadamard INT8/INT4"]

    last = {
        variant: curve_of(ranks(8), variant, experiment_of(variant, 0, **TINY)).validation_loss[-1]
        for variant in variants
    }

    assert last[BASE] < 3
    assert last == pytest.approx(dict.fromkeys(variants, last[BASE]), abs=NEAR)
    assert last[WITH_FEEDBACK] < last[PLAIN] + NO_WORSE
    assert len(set(last.values())) == len(variants)  # each has quantized something else


def curve(variant: str, seed: int, *losses: float) -> Curve:
    """Return a training with these losses."""
    return Curve(
        variant=variant,
        seed=seed,
        steps=tuple(range(1, 1 + len(losses))),
        validation_loss=losses,
        received_bytes={"package": 2048.0},
    )


def test_gaps_are_to_fp32_of_the_same_seed() -> None:
    """Losses are paired by seed, in whatever order they come; a seed without fp32 is left out."""
    curves = [
        curve("INT8 weights", 7, 5.0, 3.25),
        curve(BASE, 3, 6.0, 2.0),
        curve(BASE, 7, 4.0, 3.0),
        curve("INT8 weights", 3, 6.5, 2.75),
        curve("INT8 weights", 9, 1.0, 1.0),
    ]

    assert gaps_over_steps("INT8 weights", curves) == [[0.5, 0.75], [1.0, 0.25]]
    assert last_gaps("INT8 weights", curves) == [0.75, 0.25]


def test_the_table_tells_mean_and_deviation() -> None:
    """By hand: losses 2 and 3, gaps +0.75 and +0.25, whose deviation is 0.5 / sqrt(2)."""
    curves = [curve(BASE, 0, 2.0), curve(BASE, 1, 3.0)]
    curves += [curve("INT8 weights", 0, 2.75), curve("INT8 weights", 1, 3.25)]

    assert table(curves).splitlines() == [
        "| transport | validation loss | gap | smallest, largest gap | KiB a step over the package |",
        "| --- | --- | --- | --- | --- |",
        "| fp32 | 2.5000 ± 0.7071 |  |  | 2 |",
        "| INT8 weights | 3.0000 ± 0.3536 | +0.5000 ± 0.3536 | +0.2500, +0.7500 | 2 |",
    ]


