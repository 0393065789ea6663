"""Checks of a valid study against the machine."""

from pathlib import Path

import pytest

from configs import checks
from configs.base import Fault
from configs.checks import check_study
from configs.data import Data
from configs.hub_cache import reader_of
from configs.launchers import LocalLauncherConfig
from configs.study import Study


@pytest.fixture(autouse=True)
def _no_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATERSHED_DATA", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def data_faults(data: Data | None) -> list[Fault]:
    """Check data that this process will read."""
    return checks.data_faults(data, reader_of(LocalLauncherConfig()))


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
    assert fault.message.startswith(
        f"mnist: {tmp_path / 'absent'} does not exist. Needed is a direct"
    )
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

    expected = f"{name}: WATERSHED_DATA is {tmp_path}, which holds no {local}. Needed is a "
    assert fault.message.startswith(expected)
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


def test_a_name_that_is_no_directory_is_said_to_be_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt directory is taken as a hub name, which the author is told."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    experiment = {"data": {"name": "mnist", "source": "mnits"}}

    findings = check_study(Study.model_validate({"name": "s", "experiment": experiment}))

    assert findings.faults == []
    assert findings.notes[0] == "mnits: no such directory here; taken as a hub name"
    assert findings.notes[1].startswith("mnits is not in the cache here; jobs fetch it from the ")


@pytest.mark.parametrize(
    ("settings", "is_warned"),
    [
        ({}, True),
        ({"arrivals": {"kind": "markov"}}, True),
        ({"arrivals": "synchronous"}, False),
        ({"arrivals": "event_driven"}, False),
        ({"local_steps": "speed"}, False),
    ],
)
def test_service_times_that_nothing_uses_are_warned_of(
    settings: dict[str, object], *, is_warned: bool
) -> None:
    """Round-based arrivals have no service times, unless the local steps follow from them."""
    experiment = {"data": "digits", "service": {"law": "constant"}} | settings

    findings = check_study(Study.model_validate({"name": "s", "experiment": experiment}))

    assert any("service is set" in warning for warning in findings.warnings) == is_warned


def test_service_times_of_some_points_are_not_warned_of() -> None:
    """A base may set service times for the synchronous points of a grid with others."""
    study = Study.model_validate(
        {
            "name": "s",
            "experiment": {"data": "digits", "service": {"law": "constant"}},
            "grid": {"arrivals": ["synchronous", "uniform"]},
        }
    )

    assert check_study(study).warnings == []


def test_defaults_of_service_are_not_warned_of() -> None:
    """Who does not set service times is not told that they are not used."""
    study = Study.model_validate({"name": "s", "experiment": {"data": "digits"}})

    assert check_study(study).warnings == []


def test_models_in_flight_are_said_in_bytes() -> None:
    """A thousand workers, each with an own version of the CNN, need gigabytes."""
    experiment = {
        "workers": 2000,
        "rounds": 1000,
        "model": "mnist_cnn",
        "data": "mnist",
        "arrivals": "event_driven",
    }

    findings = check_study(Study.model_validate({"name": "s", "experiment": experiment}))

    # There are no more versions than rounds: 1000 x 582,026 x 4 bytes.
    assert findings.notes[-1] == (
        "models that workers still work on take up to 2,328,104,000 bytes (one of 582,026 "
        "parameters for each version in flight)"
    )


def test_the_size_of_a_text_model_is_an_estimate() -> None:
    """The vocabulary is unknown before the text is read, so the bytes are 'about'."""
    experiment = {
        "model": "char_lstm",
        "data": {"name": "shakespeare", "partition": "natural"},
        "algorithm": "afa_cs",
    }

    *_, note = check_study(Study.model_validate({"name": "s", "experiment": experiment})).notes

    assert note.startswith("afa_cs keeps about ")
