"""What the documents show beside commands: points of studies, launchers, how to install."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from configs.launchers import SlurmLauncherConfig
from configs.loading import load_study
from configs.topology import load_topology
from tests.integration.documents import DOCUMENTS, ROOT, blocks, commands, files, name_of

STUDIES = ROOT / "docs" / "studies.md"
_SHOWN = {
    named[2]: (named[1], block.text)
    for block in blocks(STUDIES.read_text(encoding="utf-8"))
    if block.language == "text"
    if (named := re.search(r"The (points|algorithms) of `([\w.]+)`:$", block.above))
}


@pytest.mark.parametrize("name", _SHOWN)
def test_the_points_of_the_studies_are_those_that_are_shown(name: str, tmp_path: Path) -> None:
    """Number and label of each, in order; or its label and what its algorithm has become."""
    what, shown = _SHOWN[name]
    (tmp_path / name).write_text(files(STUDIES)[name], encoding="utf-8")

    points = load_study(tmp_path / name).points()

    rows = [line.split("  ", 1) for line in shown.splitlines()]
    assert len(rows) == len(points) > 1
    for (first, rest), point in zip(rows, points, strict=True):
        if what == "points":
            assert [first, rest] == [str(point.index), point.label]
        else:
            assert point.coordinates == {"how": first}
            algorithm = point.experiment.model_dump(mode="json")["algorithm"]
            assert algorithm | yaml.safe_load(rest) == algorithm


def test_the_studies_page_shows_points() -> None:
    """The search finds what stands there: if it found nothing, all would pass."""
    assert set(_SHOWN) == {"first.yaml", "late.yaml", "overrides.yaml"}


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if "slurm.yaml" in files(path)], ids=name_of
)
def test_launcher_files_are_valid(document: Path) -> None:
    """What a document gives to ``watershed calibrate --launcher`` is a launcher of Slurm."""
    raw = yaml.safe_load(files(document)["slurm.yaml"])

    assert SlurmLauncherConfig.model_validate(raw).gpus_per_node > 0


def _pip() -> list[tuple[str, tuple[str, ...]]]:
    """Return the places and words of all commands of pip that are shown."""
    return [
        (one.place, one.words)
        for path in DOCUMENTS
        for one in commands(path)
        if one.words[0] == "pip"
    ]


def test_no_document_installs_what_somebody_else_publishes_under_our_name() -> None:
    """Watershed is installed from its checkout: on PyPI its name is another project's."""
    installed = re.compile(r"watershed(\[.*\])?([=<>~!].*)?")

    assert len(_pip()) > 3
    assert [place for place, words in _pip() if any(map(installed.fullmatch, words))] == []
    told = [
        path
        for package in ("configs", "flows", "models", "tasks")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"pip install ['\"]?watershed", path.read_text(encoding="utf-8"))
    ]
    assert told == []


def test_what_is_installed_without_an_index_is_fetched_before() -> None:
    """What builds the project (pyproject.toml, and hatchling's own for an editable one) as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = project["build-system"]["requires"]
    fetched = {words for _, words in _pip() if words[:2] == ("pip", "wheel") and len(words) > 2}

    assert len(fetched) == 1
    assert {*required, "editables", ".[dev]", "constraints.txt"} <= set(*fetched)


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (document, name)
        for document in DOCUMENTS
        for name, text in files(document).items()
        if name.endswith(".yaml") and "\nlevels:" in text
    ],
    ids=str,
)
def test_machines_are_valid(document: Path, name: str, tmp_path: Path) -> None:
    """A machine that a document shows is read, and tells the peak that planning for GPUs needs."""
    (tmp_path / name).write_text(files(document)[name], encoding="utf-8")

    machine = load_topology(str(tmp_path / name))

    assert machine.ranks_per_node > 1
    assert machine.device.peak_tflops
