"""The learning rate: warm-up, then half a cosine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.training import AdamW
from tasks.zero.schedule import lr_at


def test_it_rises_linearly_and_falls_along_half_a_cosine() -> None:
    """Calculated by hand: 4 steps of warm-up, 8 of decay from 1 to a fifth."""
    optimizer = AdamW(lr=1.0, warmup_steps=4, min_lr_share=0.2)

    rates = [lr_at(step, optimizer, 12) for step in range(1, 13)]

    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    # Halfway the cosine is 0: the mean of 1 and 0.2. A quarter on either side, it is sqrt(1/2).
    assert rates[7] == pytest.approx(0.6)
    assert rates[5] == pytest.approx(0.6 + 0.4 * math.sqrt(0.5))
    assert rates[9] == pytest.approx(0.6 - 0.4 * math.sqrt(0.5))
    assert rates[11] == pytest.approx(0.2)


def test_without_warmup_and_decay_it_stays() -> None:
    """A least share of 1 is a constant rate, from the first step on."""
    optimizer = AdamW(lr=0.3, warmup_steps=0, min_lr_share=1.0)

    assert {lr_at(step, optimizer, 5) for step in range(1, 6)} == {0.3}


def test_a_training_may_be_all_warmup() -> None:
    """As many steps of warm-up as there are: nothing is left to decay over."""
    assert lr_at(3, AdamW(lr=0.3, warmup_steps=3), 3) == pytest.approx(0.3)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_it_has_one_peak_and_never_leaves_its_bounds(warmup: int, decay: int, least: float) -> None:
    """It rises to the largest rate, falls from there, and ends at its least share."""
    optimizer = AdamW(lr=2.0, warmup_steps=warmup, min_lr_share=least)
    steps = warmup + decay

    rates = [lr_at(step, optimizer, steps) for step in range(1, steps + 1)]

    peak = max(warmup - 1, 0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) <= 2.0
    # Rounding of a sum of shares near 1: a few units in the last place.
    assert rates[-1] == pytest.approx(2.0 * least, abs=1e-12)


@pytest.mark.parametrize("step", [0, 11])
def test_there_are_no_other_steps(step: int) -> None:
    """Steps are counted from 1 to the last."""
    with pytest.raises(ValueError, match=f"train step {step} is none of 1 to 10"):
        lr_at(step, AdamW(), 10)
