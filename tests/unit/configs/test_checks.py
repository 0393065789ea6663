"""Checks of a valid study against the machine."""

from pathlib import Path

import pytest

from configs.checks import check_study, data_faults
from configs.data import Data
from configs.study import Study


@pytest.fixture(autouse=True)
def _no_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATERSHED_DATA", raising=False)


def test_bundled_and_hub_data_need_no_directory() -> None:
    """Digits are bundled; without a directory the others come from the hub."""
    assert data_faults(None) == []
    assert data_faults(Data(name="digits")) == []
    assert data_faults(Data(name="mnist")) == []
    assert data_faults(Data(name="mnist", source="someone/mnist")) == []


def test_a_missing_directory_is_reported_with_what_to_put_there(tmp_path: Path) -> None:
    """The message names the directory, its layout and the other ways."""
    (fault,) = data_faults(Data(name="mnist", source=str(tmp_path / "absent")))

    assert fault.path == "data.source"
    assert fault.message.startswith(f"{tmp_path / 'absent'} does not exist. Put a directory with")
    assert "train-*.parquet" in fault.message
    assert "downloaded from the Hugging Face hub (ylecun/mnist)" in fault.message


@pytest.mark.parametrize(
    ("name", "local"),
    [("mnist", "mnist"), ("cifar10", "cifar10"), ("shakespeare", "tinyshakespeare.txt")],
)
def test_the_data_directory_must_hold_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, local: str
) -> None:
    """With WATERSHED_DATA set, the data set must be below it, and is found there."""
    monkeypatch.setenv("WATERSHED_DATA", str(tmp_path))
    data = Data.model_validate({"name": name, "partition": "iid"})

    (fault,) = data_faults(data)
    (tmp_path / local).mkdir()

    assert fault.message.startswith(f"WATERSHED_DATA is {tmp_path}, which holds no {local}. Put ")
    assert data_faults(data) == []


def test_a_source_of_bundled_data_is_refused() -> None:
    """Digits come from nowhere else: a source would be ignored silently."""
    (fault,) = data_faults(Data(name="digits", source="./digits"))

    assert fault.message == "digits is bundled and comes from nowhere else; remove this key"


def test_a_finding_of_several_points_is_said_once(tmp_path: Path) -> None:
    """Nine points with the same missing trace give one fault."""
    study = Study.model_validate(
        {
            "name": "s",
            "experiment": {
                "data": "digits",
                "arrivals": {"kind": "trace", "path": str(tmp_path / "absent.csv")},
            },
            "grid": {"seed": [1, 2, 3], "algorithm.name": ["afa_cd", "afa_cs", "fedavg"]},
        }
    )

    findings = check_study(study)

    assert len(findings.faults) == 1
    assert findings.faults[0].path == "arrivals.path"
    assert "absent.csv" in findings.faults[0].message


def test_the_memory_of_all_workers_is_said_in_bytes() -> None:
    """AFA-CS's memory of M x P numbers is announced before the run, where it exists."""
    study = Study.model_validate(
        {
            "name": "s",
            "experiment": {"workers": 1000, "data": "digits"},
            "grid": {"algorithm.name": ["afa_cd", "afa_cs"]},
        }
    )

    findings = check_study(study)

    # 1000 workers x 10 * (64 + 1) parameters x 4 bytes
    assert findings.notes == [
        "afa_cs keeps 2,600,000 bytes at the server (1,000 workers x 650 parameters)"
    ]


def test_an_unstable_step_is_warned_of() -> None:
    """On the quadratic problem the curvature is known, so that the limit can be checked."""
    experiment = {
        "workers": 2,
        "model": {"name": "quadratic", "centres": [0, 1], "curvatures": [1, 4]},
        "algorithm": {"collect": 2},
        "arrivals": "synchronous",
    }
    stable = {"name": "s", "experiment": experiment | {"worker": {"lr": 0.01}}}
    unstable = {"name": "s", "experiment": experiment | {"worker": {"lr": 5.0}}}

    calm = check_study(Study.model_validate(stable))
    warned = check_study(Study.model_validate(unstable))

    assert calm.warnings == []
    assert any("lr" in warning for warning in warned.warnings)
