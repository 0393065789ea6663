"""YAML as configurations are written in it."""

import pytest

from configs.strict_yaml import YamlError, read_yaml


def test_keys_are_text_as_it_is_written() -> None:
    """Numbers, truth values and dates are labels like any other, also those that are merged."""
    text = """
        base: &base {5: a}
        labels: {<<: *base, off: 1, 1e-3: 2, 0.10: 3, 2026-02-03: 4, 'no': 5, 16_384: 6}
    """

    assert read_yaml(text)["labels"] == {
        "5": "a", "off": 1, "1e-3": 2, "0.10": 3, "2026-02-03": 4, "no": 5, "16_384": 6
    }  # fmt: skip


def test_values_are_what_yaml_reads() -> None:
    """Only keys are text; an exponent needs no dot."""
    assert read_yaml("[off, 5, 1e-3, 16_384]") == [False, 5, 0.001, 16_384]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{a: 1, a: 2}",
            "line 1, column 8: is no valid YAML: the key 'a' stands twice; remove one",
        ),
        ("{5: 1, '5': 2}", "line 1, column 8: is no valid YAML: the key '5' stands twice; remove"),
        ("{~: 1}", "line 1, column 2: is no valid YAML: the key null is no text; write a name"),
        ("? [a]\n: 1", "line 1, column 3: is no valid YAML: the key ['a'] is no text; write a"),
        ("a: 2026-02-30", "holds a value that cannot be read: day is out of range for month"),
        ("[" * 5000, "is nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_in_a_line(text: str, expected: str) -> None:
    """With the place, where there is one."""
    with pytest.raises(YamlError) as caught:
        read_yaml(text)

    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
