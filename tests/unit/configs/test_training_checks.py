"""Checks of a training against the machine."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import Fault
from configs.checks import check_study
from configs.launchers import LauncherConfig, LocalLauncherConfig, SlurmLauncherConfig
from configs.study import Study
from configs.training import TrainingExperiment
from configs.training_checks import (
    device_bytes,
    device_faults,
    gpus_here,
    training_faults,
    training_notes,
)

TINY = {"layers": 1, "hidden": 16, "heads": 2, "vocabulary": 256}
LARGE: dict[str, Any] = {
    "model": "gpt-20b",
    "topology": "frontier",
    "dtype": "bfloat16",
    "sequence": 2048,
    "device": "cuda",
}
CLUSTER = SlurmLauncherConfig()


def _training(**fields: Any) -> TrainingExperiment:
    return TrainingExperiment.model_validate({"kind": "training", "model": TINY} | fields)


def _faults(launcher: LauncherConfig = CLUSTER, **fields: Any) -> list[Fault]:
    return training_faults(_training(**fields), launcher)


def test_errors_of_error_feedback_are_part_of_what_does_not_fit() -> None:
    """They are named, and to do without them is offered where that is enough."""
    transport = {"gradients": "int4", "error_feedback": True}
    (fed,) = _faults(**LARGE, ranks=384, recompute=True, transport=transport)

    assert "of them errors of error_feedback 20.9 GB" in fed.message
    assert fed.message.endswith("; transport.error_feedback: false would fit")


def test_a_model_that_does_not_fit_is_told_with_what_would_help() -> None:
    """Predicted against present bytes, and the least change that is enough."""
    (few_ranks,) = _faults(**LARGE, ranks=8, micro_batch=4)
    (large_batch,) = _faults(**LARGE, ranks=384, micro_batch=4)
    (hopeless,) = _faults(**LARGE, ranks=2)
    fitting = _faults(**LARGE, ranks=384, recompute=True)

    assert few_ranks.path == "model"
    assert few_ranks.message.startswith(
        "20,554,567,680 parameters do not fit: they need about 146 GB (states 61.7 GB, gathered "
    )
    assert few_ranks.message.endswith(
        "but a device has 64 GB; partition: hfsdp and recompute: true would fit"
    )
    assert large_batch.message.endswith("; micro_batch: 1 with accumulation: 4 would fit")
    assert hopeless.message.endswith("would; use a smaller model, or more devices")
    assert fitting == []


def test_ranks_on_this_machine_share_its_memory() -> None:
    """A terabyte model is refused; the devices of a machine that is pretended have no more."""
    (fault,) = _faults(LocalLauncherConfig(), model={"preset": "gpt-20b", "layers": 4400})
    here = device_bytes(_training(device="cpu"), LocalLauncherConfig())
    pretended = device_bytes(_training(device="cpu", topology="frontier"), LocalLauncherConfig())

    assert "parameters do not fit" in fault.message
    assert ", but by launcher: local each of 8 ranks has " in fault.message
    assert ", its share of this machine's memory; " in fault.message
    assert fault.message.endswith(
        "use a smaller model, or launcher: slurm, where ranks have devices of their own"
    )
    assert here is not None
    assert pretended == min(here, 64_000_000_000)
    assert device_bytes(_training(), CLUSTER) is None
    assert _faults(LocalLauncherConfig()) == []


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ({"name": "hub", "source": "./no"}, "data.source", "./no does not exist; name a directory"),
        ({"name": "file", "source": "no.txt"}, "data.source", "no.txt does not exist; name a text"),
        ({"name": "file", "source": "empty"}, "data.source", "empty holds no .txt file; name a"),
        ({"name": "shakespeare", "source": "./no"}, "data.source", "shakespeare: ./no does not ex"),
        ({"tokenizer": "no.json"}, "data.tokenizer", "no.json is no file; name a tokenizer.json"),
    ],
)
def test_missing_files_are_told(
    data: dict[str, str],
    path: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts and tokenizers must be there before anything is submitted."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()

    (fault,) = _faults(data=data)

    assert fault.path == path
    assert fault.message.startswith(message)


def test_files_that_are_there_are_no_faults(tmp_path: Path) -> None:
    """A text, a tokenizer with fewer words than bytes, and a name on the hub."""
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_text("1 + 1 = 2")
    tokenizer.write_text("{}")
    data = {"name": "file", "source": str(text), "tokenizer": str(tokenizer)}

    assert _faults(data=data, model=TINY | {"vocabulary": 100}) == []
    assert _faults(data={"name": "hub", "source": "owner/name"}) == []


@pytest.mark.parametrize(
    ("device", "num_gpus", "is_refused"),
    [
        ("auto", 2, True),
        ("cuda", 2, True),
        ("cuda", 0, True),
        ("auto", 0, False),
        ("auto", 8, False),
        ("auto", None, False),
        ("cpu", 2, False),
    ],
)
def test_ranks_of_this_machine_need_a_gpu_each(
    device: str, num_gpus: int | None, *, is_refused: bool
) -> None:
    """Eight ranks that pretend to be two nodes of four need eight, if they use any."""
    experiment = _training(device=device, topology="mini", ranks=8)

    faults = device_faults(experiment, LocalLauncherConfig(), num_gpus)

    assert [fault.path for fault in faults] == ["device"] * is_refused
    if is_refused:
        assert faults[0].message.startswith(f"{num_gpus} GPUs are seen on this machine, for 8 ")
        assert "set device: cpu" in faults[0].message
    assert device_faults(experiment, CLUSTER, num_gpus) == []


def test_gpus_are_counted_without_torch(tmp_path: Path) -> None:
    """By their device files, as far as the environment shows them; others are not known."""
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    assert gpus_here(tmp_path, {}) == 3
    assert gpus_here(tmp_path, {"CUDA_VISIBLE_DEVICES": "1,0"}) == 2
    assert gpus_here(tmp_path, {"CUDA_VISIBLE_DEVICES": ""}) == 0
    (tmp_path / "kfd").touch()
    assert gpus_here(tmp_path, {}) is None


def test_bytes_need_a_vocabulary_of_256() -> None:
    """A smaller embedding has no row for some bytes."""
    (fault,) = _faults(model=TINY | {"vocabulary": 100})

    assert str(fault) == (
        "model.vocabulary: 100 is less than the 256 bytes that there are; use 256 or more"
    )


def test_what_would_freeze_nothing_is_a_fault() -> None:
    """Every pattern without a parameter is told; without the check all would be trained."""
    with pytest.raises(ValidationError) as raised:
        _training(frozen=["stages.0.weight", "stages.9.*", "stages.1.mlp.up.weigh"])

    message = str(raised.value)
    assert "'stages.9.*' is no parameter" in message
    assert "did you mean 'stages.1.mlp.up.weight'?" in message
    assert "'stages.0.weight'" not in message


def test_what_an_engine_cannot_do_is_a_fault() -> None:
    """The engines' own limits are part of the checks."""
    (fault,) = _faults(engine="fsdp2", partition="zero1")

    assert "zero1" in fault.message or "FSDP2" in fault.message


def test_notes_tell_of_shared_cores_and_large_models() -> None:
    """Many processes on few cores are no measure of speed; gigabytes are said beforehand."""
    many = training_notes(_training(device="cpu"), LocalLauncherConfig(), num_cores=2)
    enough = training_notes(_training(device="cpu"), LocalLauncherConfig(), num_cores=8)
    (large,) = training_notes(_training(**LARGE, ranks=384), CLUSTER, num_cores=2)

    assert many == ["8 ranks share 2 cores of this machine; fine for a trial, no measure of speed"]
    assert enough == []
    assert large.startswith("20,554,567,680 parameters need about 5")


def test_a_study_of_trainings_is_checked_point_by_point() -> None:
    """Findings that several points share are said once."""
    study = Study.model_validate(
        {
            "name": "s",
            "experiment": {
                "kind": "training",
                "model": TINY,
                "data": {"name": "file", "source": "./no.txt"},
            },
            "grid": {"seed": [0, 1], "partition": ["zero3", "ddp"]},
        }
    )

    findings = check_study(study)

    assert [fault.path for fault in findings.faults] == ["data.source"]
    assert findings.warnings == []
