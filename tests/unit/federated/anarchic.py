"""A server in a run directory, and what a worker hands in, without any process or cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.federated import FederatedExperiment
from tasks.federated.checkpoint import load_newest
from tasks.federated.messages import ReturnHeader, write_return
from tasks.federated.server import Server
from tasks.federated.serving import assemble_server
from tasks.runtime.clients import make_client_directories
from tasks.runtime.fence import UNFENCED, Fence
from tasks.runtime.records import JobFile
from tasks.runtime.returns import ReturnsLog
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Spool

HASH = "0123456789ab"
WORKERS, DIMENSION = 4, 3


def make_run(path: Path, **changes: object) -> RunDirectory:
    """Make a server's run directory and those of its workers: a quadratic problem of four."""
    raw: dict[str, Any] = {
        "workers": WORKERS,
        "rounds": 1000,
        "dtype": "float64",
        "model": {"name": "quadratic", "centres": [[float(w), 1.0, -1.0] for w in range(WORKERS)]},
        "algorithm": {"name": "afa_cd", "collect": 2},
        "arrivals": {
            "kind": "slurm",
            "partitions": [{"partition": "a", "workers": 2}, {"partition": "b", "workers": 2}],
            "budget_s": 0.01,
        },
    }
    experiment = FederatedExperiment.model_validate(raw | changes)
    job = JobFile(study="s", point="base", config_hash=HASH, experiment=experiment)
    directory = RunDirectory(path)
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.job.write_text(job.model_dump_json())
    make_client_directories(directory)
    return directory


@contextmanager
def opened(directory: RunDirectory, fence: Fence = UNFENCED) -> Iterator[Server]:
    """Open a server as its job does: from its newest checkpoint, or from the beginning."""
    Spool(directory).open()
    with ReturnsLog(directory.returns, fence) as log:
        server = assemble_server(directory, directory.read_job(), log, fence).engine
        if saved := load_newest(directory.checkpoints, HASH):
            server.restore(saved)
        yield server


def hand_in(
    spool: Spool, worker: int, sequence: int, pulled: int = 0, *, value: float = 1.0, **says: object
) -> Path:
    """Hand in a return as a client does; ``says`` changes what its header says."""
    raw: dict[str, Any] = {
        "worker": worker,
        "sequence": sequence,
        "pulled": pulled,
        "token": 1,
        "config_hash": HASH,
        "num_steps": 5,
        "pulled_at_s": 1e9,
        "returned_at_s": 1e9,
        "partition": "a" if worker < WORKERS // 2 else "b",
    }
    header = ReturnHeader.model_validate(raw | says)
    return write_return(spool.returns, header, delta_of(worker, sequence, value), UNFENCED)


def delta_of(worker: int, sequence: int, value: float = 1.0) -> Tensor:
    """The return of that name: different ones for different names."""
    entries = torch.tensor([1.0, worker + 0.1, sequence + 0.01], dtype=torch.float64)
    return value * entries
