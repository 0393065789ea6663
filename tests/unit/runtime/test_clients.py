"""The run directories of real workers."""

from pathlib import Path
from typing import Any

import pytest

from configs.federated import FederatedExperiment
from tasks.runtime.clients import make_client_directories
from tasks.runtime.records import JobFile
from tasks.runtime.run_directory import RunDirectory

EXPERIMENT: dict[str, Any] = {
    "workers": 4,
    "model": {"name": "quadratic", "centres": [1.0, 2.0, 3.0, 4.0]},
    "algorithm": {"name": "afa_cd", "collect": 1},
    "arrivals": {
        "kind": "slurm",
        "partitions": [{"partition": "a", "workers": 2}, {"partition": "b", "workers": 2}],
        "never_return": [1],
    },
}


def _server(path: Path, **changes: object) -> RunDirectory:
    experiment = FederatedExperiment.model_validate(EXPERIMENT | changes)
    job = JobFile(study="s", point="base", config_hash="abc", experiment=experiment)
    server = RunDirectory(path)
    server.job.write_text(job.model_dump_json())
    return server


def test_every_worker_that_returns_has_a_directory(tmp_path: Path) -> None:
    """Its job file says which worker it is, whose, and of which experiment."""
    server = _server(tmp_path)

    directories = make_client_directories(server)

    workers = tmp_path / "workers"
    assert directories == {"a": [workers / "0"], "b": [workers / "2", workers / "3"]}
    job = server.worker(3).read_client_job()
    assert job.worker == 3
    assert (server.worker(3).path / job.server_dir).resolve() == tmp_path.resolve()
    assert job.config_hash == "abc"
    assert job.experiment == server.read_job().experiment


def test_directories_of_a_run_that_goes_on_stay(tmp_path: Path) -> None:
    """What a worker has claimed survives."""
    server = _server(tmp_path)
    first = make_client_directories(server)
    claim = server.worker(2).checkpoints / "claim.json"
    claim.parent.mkdir()
    claim.write_text("{}")

    assert make_client_directories(server) == first
    assert claim.read_text() == "{}"


def test_simulated_workers_have_none(tmp_path: Path) -> None:
    """Only real workers are jobs."""
    server = _server(tmp_path, arrivals="uniform")

    with pytest.raises(TypeError, match="arrivals uniform have no real workers"):
        make_client_directories(server)
