"""What the README shows is true."""

import re
from pathlib import Path

import pytest

from configs.base import Fault
from configs.checks import check_study
from configs.loading import ConfigError, load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _example() -> str:
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    return found.group(1)


def test_the_example_is_a_valid_study(tmp_path: Path) -> None:
    """The example can be run as it stands, without a warning."""
    path = tmp_path / "my-study.yaml"
    path.write_text(_example())

    study = load_study(path)

    findings = check_study(study)
    assert len(study.points()) == 6
    assert findings.faults == []
    assert findings.warnings == []


def test_the_faults_shown_are_those_that_are_reported(tmp_path: Path) -> None:
    """Three faults put into the example are reported in the very words of the README."""
    text = _example()
    for right, wrong in {
        "optimizer: sgd,": "optimizer: sgdd,",
        "max_delay": "max_dely",
        "collect: 10,": "collect: 120,",
    }.items():
        assert right in text
        text = text.replace(right, wrong)
    path = tmp_path / "my-study.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"collect: 120 is more than workers") as caught:
        load_study(path)

    shown = re.findall(r"^my-study\.yaml: (.+)$", README, re.MULTILINE)
    assert len(shown) == 3
    assert set(shown) <= {_text(fault) for fault in caught.value.faults}


def _text(fault: Fault) -> str:
    return f"{fault.path}: {fault.message}"


def test_all_files_named_exist() -> None:
    """Links, pictures and studies that the README names are there."""
    linked = re.findall(r"\]\(((?:docs|configs)/[^)]+)\)", README)
    named = re.findall(r"configs/[\w./-]+\.yaml", README)
    shipped = {path.name for path in (ROOT / "configs").rglob("*.yaml")}
    studies = re.findall(r"`([\w-]+\.yaml)`", README)

    missing = [name for name in linked + named if not (ROOT / name).exists()]

    assert len(linked) >= 10
    assert len(studies) >= 12
    assert len(named) >= 3
    assert missing == []
    assert set(studies) <= shipped
