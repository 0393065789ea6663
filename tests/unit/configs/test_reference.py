"""The reference of all fields."""

from pathlib import Path

import pytest

from configs.reference import reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_document_is_what_the_schemas_say() -> None:
    """Made anew by ``python -m configs.reference > docs/reference.md``, it is the same text."""
    assert DOCUMENT.read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize(
    "row",
    [
        "| `lr` | a number above 0, at most 1e+09 | `0.1` | ",
        "| `experiment` | [FederatedExperiment](#federatedexperiment), [TrainingExperiment]",
        "| `name` | text | required | Name of the study",
        "| `levels` | list of [Level](#level) | required | ",
    ],
)
def test_fields_are_told_with_bounds_defaults_and_links(row: str) -> None:
    """A bounded number, a union of records, a field without a default, a list of records."""
    assert row in reference()


def test_every_field_has_a_meaning() -> None:
    """No field of any record is left without a description."""
    rows = [line for line in reference().splitlines() if line.startswith("| `")]

    assert len(rows) > 200
    assert [row for row in rows if row.endswith("|  |")] == []
