"""Sizes of GPTs in closed form; tests/unit/models/test_gpt.py counts them on the real model."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.gpt import PRESETS, Gpt, GptField, is_frozen

NEOX_20B = Gpt.model_validate({"preset": "gpt-20b", **PRESETS["gpt-20b"]})


def test_gpt_neox_20b_has_its_published_number_of_parameters() -> None:
    """The preset with 44 layers of 6144 has the 20 554 567 680 parameters of GPT-NeoX-20B."""
    assert NEOX_20B.num_parameters == 20_554_567_680


def test_flops_are_those_of_the_known_formula() -> None:
    """With recomputation they are 96 s L h^2 (1 + s/(6h) + V/(16Lh)), 3.485e14 a sequence."""
    s, layers, h, vocabulary = 2048, 44, 6144, 50_432
    known = 96 * s * layers * h**2 * (1 + s / (6 * h) + vocabulary / (16 * layers * h))
    blocks_once = 24 * s * layers * h**2 * (1 + s / (6 * h))

    hardware = NEOX_20B.hardware_flops(s, recompute=True)
    model = NEOX_20B.model_flops(s)

    assert hardware == pytest.approx(known, rel=1e-12)
    assert hardware == pytest.approx(3.485e14, rel=1e-4)
    assert model == pytest.approx(known - blocks_once, rel=1e-12)
    assert NEOX_20B.hardware_flops(s, recompute=False) == model


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_as_large_as_its_name_says(preset: str) -> None:
    """A preset's name is its number of parameters with a tied head, to a tenth."""
    number, unit = re.fullmatch(r"gpt-([\d.]+)([mb])", preset).groups()  # type: ignore[union-attr]
    named = float(number) * {"m": 1e6, "b": 1e9}[unit]

    config: Gpt = TypeAdapter(GptField).validate_python({"preset": preset, "tied": True})

    assert config.preset == preset
    assert config.num_parameters == pytest.approx(named, rel=0.1)


def test_a_bare_name_is_a_preset_and_sizes_beside_it_win() -> None:
    """``gpt-3m`` stands for its sizes, and a size set beside a preset replaces the preset's."""
    fields = TypeAdapter(GptField)

    bare = fields.validate_python("gpt-3m")
    changed = fields.validate_python({"preset": "gpt-3m", "layers": 7})

    assert (bare.layers, bare.hidden, bare.heads) == (4, 256, 8)
    assert (changed.layers, changed.hidden) == (7, 256)


def test_heads_must_divide_the_width() -> None:
    """Heads that do not divide the width are refused, and those that would are listed."""
    with pytest.raises(ValidationError, match=r"5 does not divide the width 12.*1, 2, 3, 4, 6"):
        Gpt(hidden=12, heads=5)


def test_a_pair_of_each_head_must_rotate() -> None:
    """A share of a head that is less than one pair is refused."""
    with pytest.raises(ValidationError, match=r"0\.25 of a head of 4 is less than one pair"):
        Gpt(hidden=16, heads=4)


def test_a_width_that_rotates_is_even_and_never_more_than_asked() -> None:
    """A quarter of 96 is 24; a third of 16 rounds down to the pair below, 4."""
    assert NEOX_20B.rotary_width == 24
    assert Gpt(hidden=16, heads=1, rotary_fraction=1 / 3).rotary_width == 4


def test_frozen_parameters_are_named_whole_or_by_their_beginning() -> None:
    """A pattern is a whole name, or a beginning with a star; nothing else is a wildcard."""
    assert is_frozen("stages.0.weight", ["stages.0.weight"])
    assert is_frozen("stages.1.mlp.up.bias", ["stages.3*", "stages.1.*"])
    assert not is_frozen("stages.11.mlp.up.bias", ["stages.1.*"])
    assert not is_frozen("stages.0.weight", ["stages.0", "*weight"])
    assert not is_frozen("stages.0.weight", [])
