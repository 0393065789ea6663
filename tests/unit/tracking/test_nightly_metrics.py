"""What nights can be compared by, and where runs ran."""

from pathlib import Path

import pytest

from configs.launchers import LocalLauncherConfig, SlurmLauncherConfig
from configs.presets import study_path
from configs.study import Study
from tasks.runtime.atomic_files import write_json
from tasks.runtime.records import Started
from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.machine import allocation_of, machine_of
from tasks.tracking.nightly_metrics import HIGHER_IS_BETTER, metric_faults, metrics_for

_TRAINING = Study.model_validate({"name": "t", "experiment": {"kind": "training"}})
_FEDERATED = Study.model_validate(
    {"name": "f", "experiment": {"workers": 2, "model": "quadratic", "algorithm": {"collect": 1}}}
)


@pytest.mark.parametrize("study", [_TRAINING, _FEDERATED])
def test_defaults_are_known_metrics(study: Study) -> None:
    """A speed and a loss."""
    defaults = metrics_for(study, [])

    assert len(defaults) == 2
    assert metric_faults(study, defaults) == []


def test_unknown_metrics_are_faults_all_at_once() -> None:
    """With what is known; the levels of the machine among it."""
    faults = metric_faults(_TRAINING, ["loss", "lost", "bytes_cluster", "bytes_rack"])

    assert [fault.message.partition(" is")[0] for fault in faults] == ["'lost'", "'bytes_rack'"]
    assert "bytes_package" in str(faults[0])


def test_a_metric_that_is_named_twice_is_compared_once() -> None:
    """Twice the same would be corrected for as two."""
    assert metrics_for(_TRAINING, ["loss", "train_loss"]) == ("train_loss",)


def test_more_tokens_are_better_and_more_seconds_worse() -> None:
    """Every known metric goes one way or the other."""
    assert "tokens_per_s" in HIGHER_IS_BETTER
    assert {"step_s", "train_loss", "wall_s", "peak_bytes"}.isdisjoint(HIGHER_IS_BETTER)


def _ran(directory: Path, **started: object) -> RunDirectory:
    run = RunDirectory(directory)
    run.attempt(1).mkdir(parents=True)
    record = Started.model_validate({"pid": 1, "host": "laptop", "timestamp_ms": 1, **started})
    write_json(run.attempt(1) / "started.json", record.model_dump())
    return run


def test_a_machine_is_where_the_last_attempt_ran(tmp_path: Path) -> None:
    """A cluster's partition, not its node; this machine by its name; else nothing."""
    on_slurm = {"slurm_job": "12", "cluster": "frontier", "partition": "batch", "host": "n1"}

    assert machine_of(_ran(tmp_path / "a", **on_slurm)) == "slurm: frontier/batch"
    assert machine_of(_ran(tmp_path / "b")) == "local: laptop"
    assert machine_of(RunDirectory(tmp_path / "c")) == ""


def test_an_allocation_has_what_speed_depends_on() -> None:
    """Not the account, not the time limit."""
    config = SlurmLauncherConfig(cpus_per_task=7, gpus_per_node=4, gpu_type="a100", exclusive=True)
    same = config.model_copy(update={"account": "other", "time_limit": "3:00:00"})

    assert allocation_of(config, None) == "7 CPUs a task, 4 a100 GPUs, exclusive"
    assert allocation_of(same, None) == allocation_of(config, None)
    assert allocation_of(LocalLauncherConfig(), 2).endswith(" cores, 2 jobs at a time")


def test_shipped_studies_are_found_by_name() -> None:
    """A path is a path; an unknown name lists the known ones."""
    assert study_path("nightly").is_file()
    assert study_path("gpt-tiny").is_file()
    assert study_path("mine/own.yaml") == Path("mine/own.yaml")
    with pytest.raises(LookupError, match="'nightli' is no study; use the path of a YAML file, or"):
        study_path("nightli")
