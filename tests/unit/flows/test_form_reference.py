"""The reference of the run forms."""

from functools import cache
from pathlib import Path

import pytest

from flows.form_reference import form_reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "forms.md"


@cache
def _reference() -> str:
    return form_reference()


def test_the_document_is_what_the_deployments_say() -> None:
    """Made anew by ``python -m flows.form_reference > docs/forms.md``, it is the same text."""
    assert DOCUMENT.read_text(encoding="utf-8") == _reference()


@pytest.mark.parametrize(
    "row",
    [
        "| Study | `study` | [fields beside a preset](#federated-study-from-a-preset) or a whole "
        '[Study](reference.md#study) | `{"preset": "digits"}` | ',
        "| Worker learning rate | `lr` | a number above 0, at most 1e+09 | empty | ",
        "| Seeds | `seeds` | a list of at most 1000; each a whole number from 0 to below ",
        "| Confidence | `confidence` | a number from 0.5 to below 1 | `0.95` | ",
        '| Time zone | `time_zone` | text | `"Europe/Berlin"` | ',
        "| Measure up to | `measure_up_to` | a whole number of at least 1 | empty | ",
        "| Compare since | `since` | a date, YYYY-MM-DD | empty | ",
        "| Exact | `exact` | true or false | `false` | ",
        "| Kind | `kind` | one of `local`, `slurm` | empty | ",
        "`zero_topo_quantized_sync`, `sdp4bit` | empty | ",
    ],
)
def test_fields_are_told_with_bounds_choices_and_what_is_deployed(row: str) -> None:
    """Unions, both kinds of bounds, lists, drop-downs; a deployment's value, not its flow's."""
    assert row in _reference()


def test_all_deployments_have_their_sections() -> None:
    """Those of studies have one for the fields beside the preset, too."""
    heads = [line for line in _reference().splitlines() if line.startswith("##")]

    assert heads == [
        "## federated-study", "### federated-study: from a preset",
        "## training-run", "### training-run: from a preset",
        "## scaling-study", "### scaling-study: from a preset",
        "## nightly-scaling", "## plan-training", "## Launcher",
    ]  # fmt: skip
