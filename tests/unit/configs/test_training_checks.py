"""Checks of a training against the machine."""

import json
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
    may_use_gpus,
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
    assert hopeless.message.endswith(
        "would; use a smaller model, or 32 devices, or 8 devices with partition: hfsdp and "
        "recompute: true"
    )
    assert fitting == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"partition": "zero3"}, "16 devices, or 8 devices with recompute: true"),
        ({"partition": "zero3", "recompute": True}, "8 devices"),
        (
            {"partition": "ddp"},
            "8 devices with partition: hfsdp and recompute: true",
        ),
        (
            {"sequence": 500_000},
            "devices with more memory: no number of these would do",
        ),
    ],
)
def test_the_least_number_of_devices_is_told(fields: dict[str, Any], words: str) -> None:
    """On one device 20 billion parameters do not fit; the number that is told does."""
    (fault,) = _faults(**LARGE | fields, ranks=1)

    assert fault.message.endswith(f" would; use a smaller model, or {words}")
    fits = LARGE | {"partition": "zero3", "recompute": True, "ranks": 8}
    assert _faults(**fits) == []
    assert [one.path for one in _faults(**fits | {"ranks": 4})] == ["model"]


def test_only_what_the_engine_has_is_offered() -> None:
    """DeepSpeed cannot split by HFSDP, which is what ours would need at least."""
    fields = LARGE | {"ranks": 64, "partition": "zero1", "recompute": True}
    (ours,) = _faults(**fields)
    (deepspeed,) = _faults(**fields, engine="deepspeed")

    assert ours.message.endswith("; partition: hfsdp would fit")
    assert deepspeed.message.endswith("; partition: zeropp would fit")


def test_other_engines_begin_with_the_whole_model() -> None:
    """It must fit on each rank; DeepSpeed takes it to the device, FSDP2 a stage at a time."""
    model = {"preset": "gpt-20b", "layers": 88}
    fields = LARGE | {"model": model, "ranks": 384, "partition": "zero3", "recompute": True}

    (fault,) = _faults(**fields, engine="deepspeed")
    (_, note) = training_notes(_training(**fields, engine="fsdp2"), CLUSTER, num_cores=2)

    assert str(fault) == (
        "engine: deepspeed takes all 40,489,414,656 parameters to every device before it splits "
        "them: 81 GB, but a device has 64 GB; use engine ours, or a smaller model"
    )
    assert _faults(**fields, engine="fsdp2") == _faults(**fields) == []
    assert note == (
        "engine fsdp2 builds the whole model in the host's memory on every rank before it splits "
        "it: 162 GB each, 1,296 GB for 8 ranks of a node; what is predicted besides is of engine "
        "ours"
    )


def test_ranks_of_this_machine_hold_the_whole_model_of_other_engines() -> None:
    """A model whose shards fit beside each other, but of which there is a copy each at first."""
    has = device_bytes(_training(device="cpu"), LocalLauncherConfig())
    assert has is not None
    layers = max(1, has // 3 // (12 * 512**2))  # 4/3 of what a rank has; an eighth of states is 2/3
    model = {"layers": layers, "hidden": 512, "heads": 8, "vocabulary": 256}
    fields = {"model": model, "partition": "zero3", "device": "cpu", "sequence": 2}

    (fault,) = _faults(LocalLauncherConfig(), **fields, engine="fsdp2")

    assert fault.path == "engine"
    assert " parameters to every rank before it splits them: " in fault.message
    assert ", but by launcher: local each of 8 ranks has " in fault.message
    assert _faults(LocalLauncherConfig(), **fields) == []


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
    tokenizer.write_text(json.dumps({"model": {"vocab": {"1": 0, "=": 99}}}))
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


@pytest.mark.parametrize(
    ("visible", "num_gpus"),
    [
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0,-1,1", 1),
        ("0,7", 1),
        (" 2, 1 ,0", 3),
        ("GPU-8a1f,GPU-77e2", 2),
        ("MIG-11c9", 1),
    ],
)
def test_the_first_that_is_no_gpu_hides_the_others(
    tmp_path: Path, visible: str, num_gpus: int
) -> None:
    """As CUDA has it; -1 is how a training on CPUs is had where there are GPUs."""
    for number in range(3):
        (tmp_path / f"nvidia{number}").touch()

    found = gpus_here(tmp_path, {"CUDA_VISIBLE_DEVICES": visible})

    assert found == num_gpus
    assert may_use_gpus(_training(device="auto"), found) is (num_gpus > 0)


def test_gpus_are_used_where_they_may_be_there() -> None:
    """With ``auto`` if any are seen, or nobody can say; else as the device says."""
    found = [may_use_gpus(_training(device="auto"), number) for number in (0, 2, None)]

    assert found == [False, True, True]
    assert may_use_gpus(_training(device="cuda"), 0)
    assert not may_use_gpus(_training(device="cpu"), None)


def test_bytes_need_a_vocabulary_of_256() -> None:
    """A smaller embedding has no row for some bytes."""
    (fault,) = _faults(model=TINY | {"vocabulary": 100})

    assert str(fault) == (
        "model.vocabulary: 100 is less than the 256 bytes that there are; use 256 or more"
    )


def test_a_tokenizer_needs_a_vocabulary_of_its_size(tmp_path: Path) -> None:
    """Before anything is submitted: each of its tokens has a row in the embedding."""
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 999}}}))

    (fault,) = _faults(data={"tokenizer": str(tokenizer)})
    enough = _faults(data={"tokenizer": str(tokenizer)}, model=TINY | {"vocabulary": 1000})

    assert str(fault) == (
        f"model.vocabulary: 256 is less than the 1000 that the tokens of {tokenizer} need; use "
        "1000 or more, or another tokenizer"
    )
    assert enough == []


def test_what_is_no_tokenizer_is_told_once(tmp_path: Path) -> None:
    """A text in its place is refused, with what to name instead."""
    text = tmp_path / "text.txt"
    text.write_text("1 + 1 = 2")

    (fault,) = _faults(data={"tokenizer": str(text)})

    assert str(fault) == (
        f"data.tokenizer: {text} is not JSON; name a tokenizer.json of the tokenizers library, or "
        "use bytes"
    )


def test_what_would_freeze_nothing_is_a_fault() -> None:
    """Every pattern without a parameter is told; without the check all would be trained."""
    with pytest.raises(ValidationError) as raised:
        _training(frozen=["stages.0.weight", "stages.9.*", "stages.1.mlp.up.weigh"])

    message = str(raised.value)
    assert "'stages.9.*' is no parameter" in message
    assert "did you mean 'stages.1.mlp.up.weight'?" in message
    assert "'stages.0.weight'" not in message


@pytest.mark.parametrize("frozen", [["*"], ["stages.0.*", "stages.1.*", "stages.2.*"]])
def test_something_must_be_trained(frozen: list[str]) -> None:
    """A training without a parameter to train is none; all but one may be frozen."""
    with pytest.raises(ValidationError) as raised:
        _training(frozen=frozen)

    (error,) = raised.value.errors()
    assert str(error["ctx"]["reason"]) == (
        "all 16 parameters are frozen, so that nothing would be trained; leave at least one out"
    )
    assert error["loc"] == ("frozen",)
    assert _training(frozen=["stages.0.*", "stages.1.*", "stages.2.norm.*"]).frozen


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
