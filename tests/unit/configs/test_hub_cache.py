"""Data of the hub where the hub is not reached."""

from pathlib import Path
from typing import Any

import pytest

from configs.checks import Findings, check_study
from configs.hub_cache import cache_of, offline_variable, place_in
from configs.study import Study

_TRAINING = {
    "kind": "training",
    "model": {"layers": 1, "hidden": 8, "heads": 1, "vocabulary": 256},
    "steps": 2,
    "sequence": 8,
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WATERSHED_DATA", "WATERSHED_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path))


def _checked(data: Any, launcher: Any = "local", *, training: bool = False) -> Findings:
    experiment = _TRAINING if training else {"model": "logistic"}
    study = {"name": "s", "experiment": experiment | {"data": data}, "launcher": launcher}
    return check_study(Study.model_validate(study))


def _cached(tmp_path: Path, name: str) -> None:
    (tmp_path / "hf" / "datasets" / name / "default" / "0.0.0" / "abc").mkdir(parents=True)


def test_offline_what_is_not_in_the_cache_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was looked for, where, and the ways to have it; in the cache it is none."""
    assert _checked("mnist").faults == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    (fault,) = _checked("mnist").faults
    _cached(tmp_path, "ylecun___mnist")

    assert fault.path == "data.source"
    assert fault.message.startswith(
        "mnist: ylecun/mnist is not in the cache, and with HF_HUB_OFFLINE=1 it is not fetched from "
        f"the Hugging Face hub; looked for {tmp_path}/hf/datasets/ylecun___mnist. "
    )
    fetching = f"""HF_HOME={tmp_path}/hf python -c "from datasets import load_dataset; load_dat"""
    assert fetching in fault.message
    assert "data.source" in fault.message
    assert "WATERSHED_DATA" in fault.message
    assert "docs/how-to/offline-nodes.md" in fault.message
    assert _checked("mnist").faults == []


@pytest.mark.parametrize(
    ("data", "name", "directory"),
    [
        ("shakespeare", "karpathy/tiny_shakespeare", "karpathy___tiny_shakespeare"),
        ({"name": "hub", "source": "owner/MyText2B"}, "owner/MyText2B", "owner___my_text2_b"),
    ],
)
def test_texts_are_looked_for_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any, name: str, directory: str
) -> None:
    """Unless their tokens have been packed before, which is all that a training reads."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    (fault,) = _checked(data, training=True).faults
    kind = data["name"] if isinstance(data, dict) else data
    packed = tmp_path / ".cache" / "watershed" / f"0123-{kind}.tokens"
    packed.parent.mkdir(parents=True)
    packed.touch()
    with_tokens = _checked(data, training=True).faults
    packed.unlink()
    _cached(tmp_path, directory)

    assert fault.message.startswith(f"{name} is not in the cache")
    assert f"{tmp_path}/hf/datasets/{directory}" in fault.message
    assert with_tokens == []
    assert _checked(data, training=True).faults == []


@pytest.mark.parametrize(
    ("data", "training", "directory"),
    [
        ("mnist", False, "ylecun___mnist"),
        ("shakespeare", True, "karpathy___tiny_shakespeare"),
    ],
)
def test_what_will_be_fetched_is_said_before(
    data: str, directory: str, tmp_path: Path, *, training: bool
) -> None:
    """Also on this machine; what is in the cache is not fetched."""
    before = [one for one in _checked(data, training=training).notes if "hub" in one]
    _cached(tmp_path, directory)
    after = [one for one in _checked(data, training=training).notes if "hub" in one]

    assert len(before) == 1
    assert before[0].startswith(directory.replace("___", "/") + " is not in the cache here; jobs ")
    assert "WATERSHED_DATA" in before[0]
    assert after == []


def test_the_variables_of_the_jobs_count(tmp_path: Path) -> None:
    """Those of the launcher go before those of the shell."""
    (tmp_path / "shared").mkdir()
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "shared")}

    (fault,) = _checked("mnist", {"kind": "slurm", "environment": environment}).faults

    assert f"looked for {tmp_path}/shared/datasets/ylecun___mnist" in fault.message


def test_what_only_nodes_see_is_a_note() -> None:
    """It may be there; and where the hub is asked by nodes, it is said that they need a network."""
    unseen = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere/hf"}

    offline = _checked("mnist", {"kind": "slurm", "environment": unseen})
    data = _checked("mnist", {"kind": "slurm", "environment": {"WATERSHED_DATA": "/nowhere/data"}})
    online = _checked("mnist", {"kind": "slurm"})
    text = _checked("shakespeare", {"kind": "slurm", "environment": unseen}, training=True)

    assert [one.faults for one in (offline, data, online, text)] == [[], [], [], []]
    assert offline.notes[0].startswith(
        "with HF_HUB_OFFLINE=1 jobs look for /nowhere/hf/datasets/ylecun___mnist, which is not seen"
    )
    assert data.notes[0].startswith("WATERSHED_DATA=/nowhere/data of the jobs is not seen from her")
    assert online.notes[0].startswith(
        "jobs fetch ylecun/mnist from the Hugging Face hub; for nodes"
    )
    assert "karpathy___tiny_shakespeare, which is not seen" in " ".join(text.notes)


def test_the_names_are_those_of_the_datasets_library() -> None:
    """Its own functions say where it looks, and when it is offline."""
    from datasets.naming import camelcase_to_snakecase  # type: ignore[import-untyped]  # noqa: PLC0415  2 s

    for name in ("mnist", "MyText", "MNISTSmall", "text2B", "tiny_shakespeare"):
        assert place_in(Path(), name).name == camelcase_to_snakecase(name)
    assert cache_of({"HF_HOME": "/a"}) == Path("/a/datasets")
    assert cache_of({"HF_HOME": "/a", "HF_DATASETS_CACHE": "/b"}) == Path("/b")
    assert cache_of({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/datasets")
    assert offline_variable({"HF_HUB_OFFLINE": "0"}) == ""
    assert offline_variable({"HF_HUB_OFFLINE": "yes"}) == "HF_HUB_OFFLINE=yes"
    assert offline_variable({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "0"}) == ""
