"""A training whose states travel in 8 and 4 bits ends near the loss of one with fp32 transport."""

import itertools
import json
import os
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from configs.data import DATA_ENVIRONMENT
from tests.proof.convergence import (
    CHANGES,
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
from tests.proof.gaps import (
    BASE,
    Curve,
    comparisons,
    curves_of,
    gaps_over_steps,
    interval,
    last_gaps,
    table,
)
from tests.ranks import RankPool

INT8, PLAIN, WITH_FEEDBACK, ALL, ALL_FED, HADAMARD = (
    name for name in VARIANTS if name not in {BASE, CONTROL}
)

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


@pytest.mark.slow
def test_quantized_transport_ends_near_the_loss_of_fp32(ranks: Callable[[int], RankPool]) -> None:
    """After 30 steps losses are within 0.02 of fp32's, and error feedback does not add 0.01."""
    variants = [BASE, PLAIN, WITH_FEEDBACK, ALL, ALL_FED, HADAMARD]

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


def test_the_table_tells_mean_and_interval() -> None:
    """By hand: losses 2 and 3, gaps +0.75 and +0.25, whose mean's error is 0.25; t is 12.706."""
    curves = [curve(BASE, 0, 2.0), curve(BASE, 1, 3.0)]
    curves += [curve("INT8 weights", 0, 2.75), curve("INT8 weights", 1, 3.25)]

    head, *rest = table(curves).splitlines()

    assert head.startswith("| transport | validation loss | gap [95 %] | smallest, largest gap |")
    assert rest == [
        "| --- | --- | --- | --- | --- |",
        "| fp32 | 2.5000 ± 0.7071 |  |  | 2 |",
        "| INT8 weights | 3.0000 ± 0.3536 | +0.5000 [-2.6766, +3.6766] | +0.2500, +0.7500 | 2 |",
    ]


def test_a_variant_may_be_added_to_a_file(tmp_path: Path) -> None:
    """Those that the file holds are read; of another experiment under a known name none is."""
    path = tmp_path / "file.json"
    whole = json.loads(DATA_PATH.read_text(encoding="utf-8"))

    path.write_text(json.dumps(whole | {"variants": {BASE: VARIANTS[BASE]}}))
    found = read(path)
    path.write_text(json.dumps(whole | {"variants": {BASE: VARIANTS[INT8]}}))

    assert found == read(DATA_PATH)
    with pytest.raises(ValueError, match="trainings of another experiment than this program's"):
        read(path)


def test_the_document_tells_what_the_file_holds() -> None:
    """The table of docs/convergence.md is that of docs/data/convergence.json: all of its trainings.

    What the text says besides, it says of gaps that are so.
    """
    document = (DOCS / "convergence.md").read_text(encoding="utf-8")

    curves = read(DATA_PATH)

    assert {(one.variant, one.seed) for one in curves} == set(itertools.product(VARIANTS, SEEDS))
    assert all(one.steps[-1] == EXPERIMENT["steps"] for one in curves)
    assert table(curves) in document
    assert comparisons(CHANGES, curves) in document
    claims = claims_of({variant: last_gaps(variant, curves) for variant in VARIANTS}, curves)
    assert [claim for claim in claims if claim not in " ".join(document.split())] == []
    assert [claim for claim, is_so in claims.items() if not is_so] == []


def claims_of(gaps: dict[str, list[float]], curves: list[Curve]) -> dict[str, bool]:
    """Return what the document says of the gaps, each with whether it is so."""
    mean = {variant: statistics.fmean(by_seed) for variant, by_seed in gaps.items()}
    losses = [one.validation_loss[-1] for one in curves_of(BASE, curves)]
    mean_loss = statistics.fmean(losses)
    received = {name: curves_of(name, curves)[0].received_bytes["cluster"] for name in VARIANTS}
    every_step = [abs(gap) for row in gaps_over_steps(CONTROL, curves) for gap in row]
    changes = {name: last_gaps(one, curves, base=base) for name, (one, base) in CHANGES.items()}
    feedback = [values for name, values in changes.items() if name.startswith("error feedback")]
    return {
        "differs by at most 0.00004 at any of the validations": max(every_step) <= 4e-5,
        "the interval of their gap holds zero": _holds_zero(gaps[INT8]),
        "INT4 gradients cost a third of a percent of the loss": round(
            100 * mean[PLAIN] / mean_loss, 1
        )
        == 0.3
        and not _holds_zero(gaps[PLAIN]),
        "less than 1 % in every seed": max(gaps[PLAIN]) < 0.01 * min(losses),
        "half a percent above fp32's in the mean": round(100 * mean[ALL] / mean_loss, 1) == 0.5,
        "above 1 % in two seeds of ten": sum(
            gap > 0.01 * loss for gap, loss in zip(gaps[ALL], losses, strict=True)
        )
        == 2,
        "81 % fewer bytes": round(100 * (1 - received[ALL] / received[PLAIN])) == 81,
        "holds zero in both comparisons": [_holds_zero(values) for values in feedback]
        == [True, True],
        "helps the one and harms the other": statistics.fmean(feedback[0][:3]) < 0
        and min(feedback[1][:3]) > 0,
        "Hadamard INT8/INT4 cannot be told from plain INT4": _holds_zero(
            last_gaps(HADAMARD, curves, base=PLAIN)
        ),
        "44 % fewer bytes": round(100 * (1 - received[HADAMARD] / received[PLAIN])) == 44,
        "Seeds differ more than transports do": statistics.stdev(losses) > max(mean.values()),
    }


def _holds_zero(values: list[float]) -> bool:
    low, high = interval(values)
    return low <= 0 <= high


@pytest.mark.slow
@pytest.mark.skipif(
    DATA_ENVIRONMENT not in os.environ, reason=f"needs Tiny Shakespeare below {DATA_ENVIRONMENT}"
)
# Another processor or order of sums rounds otherwise: 1e-6 of a loss was seen. Where that takes a
# value to another level of INT4, the training takes another path: gaps below 0.02 were seen then.
@pytest.mark.parametrize(("variant", "rounding"), [(BASE, 1e-4), (WITH_FEEDBACK, 0.02)])
def test_the_file_holds_what_the_program_gives(variant: str, rounding: float) -> None:
    """A training of seed 0, done again, has the losses of docs/data/convergence.json."""
    (written,) = (one for one in curves_of(variant, read(DATA_PATH)) if one.seed == 0)

    with closing(RankPool(EXPERIMENT["ranks"], give_up_s=600)) as pool:
        found = curve_of(pool, variant, experiment_of(variant, 0))

    assert found.received_bytes == written.received_bytes
    assert found.steps == written.steps
    assert found.validation_loss == pytest.approx(written.validation_loss, abs=rounding)
