"""The ranks of one node in a benchmark of training, forked anew for every measurement.

The process that forks them has loaded torch, and every engine that was asked for, once. It reads
orders from its input, one a line, and answers each by a line when the ranks have ended; rank 0
writes what was measured.
"""

import functools
import importlib
import itertools
import os
import sys
import time
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import distributed as dist

from configs.base import Record
from configs.calibration import Calibration
from configs.training import TrainingExperiment
from tasks.runtime.records import Result
from tasks.runtime.stopping import StopRequest
from tasks.zero.calibrate import calibrate
from tasks.zero.engines import build_engine
from tasks.zero.identity import Identity, all_ranks
from tasks.zero.local_ranks import run_ranks
from tests.cluster.netns_cluster import INTERFACE

_LR = 1e-3
_POLL_S = 0.01
_MODULES = {
    "ours": "tasks.zero.engine",
    "deepspeed": "deepspeed",
    "fsdp2": "tasks.zero.adapters.fsdp2_engine",
}
_RECEIVED, _SENT = 0, 8  # columns of /proc/self/net/dev


class Order(Record):
    """What the ranks of a node are to do.

    Attributes:
        experiment: What all ranks train.
        node: Which node this is, from 0; the ranks are spread evenly.
        num_nodes: How many there are, whatever the topology says.
        directory: Where the ranks of all nodes meet, and rank 0 leaves its answer; new.
        warmup_steps: Train steps before the measurement.
        steps: Train steps that are measured.
    """

    experiment: TrainingExperiment
    node: int
    num_nodes: int
    directory: Path
    warmup_steps: int
    steps: int

    @property
    def answer(self) -> Path:
        """File of what rank 0 has measured."""
        return self.directory / "measured.json"


class CalibrationOrder(Record):
    """What the ranks of a node are to measure, as ``watershed calibrate`` has them do.

    Attributes:
        calibration: What all ranks measure.
        node: Which node this is, from 0.
        num_nodes: How many there are.
        directory: Where the ranks of all nodes meet, and rank 0 leaves its answer; new.
    """

    calibration: Calibration
    node: int
    num_nodes: int
    directory: Path

    @property
    def answer(self) -> Path:
        """File of what was measured."""
        return self.directory / "calibrated.json"


class Measured(Record):
    """What rank 0 has seen of some train steps.

    Attributes:
        step_s: How long each took.
        cpu_s: Its processor time, a train step.
        sent_bytes: What its node sent to others, a train step; headers included.
        received_bytes: What its node received.
        counted_bytes: What the engine says that this rank received, by level.
        exposed_s: How long the rank waited for collectives, by level, a train step.
        optimizer_s: How long the update took, a train step.
        loss: Of the last train step.
    """

    step_s: list[float]
    cpu_s: float
    sent_bytes: float
    received_bytes: float
    counted_bytes: dict[str, int]
    exposed_s: dict[str, float]
    optimizer_s: float
    loss: float


_ORDERS: TypeAdapter[Order | CalibrationOrder] = TypeAdapter(Order | CalibrationOrder)


def measure(order: Order, identity: Identity) -> Result:
    """Be a rank: train, and measure.

    Args:
        order: The order.
        identity: Of this rank.

    Returns:
        That it went well.
    """
    experiment = order.experiment
    store = _join(order.directory, identity)
    engine = build_engine(experiment, torch.device("cpu"))
    generator = torch.Generator().manual_seed(identity.rank)
    shape = (experiment.accumulation, experiment.micro_batch, experiment.sequence + 1)
    tokens = torch.randint(experiment.model.vocabulary, shape, generator=generator)
    micro_batches = list(tokens)
    for _ in range(order.warmup_steps):
        engine.train_step(micro_batches, _LR)
    dist.barrier()
    received, sent = _link_bytes()
    began_cpu_s = time.process_time()
    reports, ends_s = [], [time.perf_counter()]
    for _ in range(order.steps):
        reports.append(engine.train_step(micro_batches, _LR))
        ends_s.append(time.perf_counter())
    cpu_s = time.process_time() - began_cpu_s
    dist.barrier()
    received_after, sent_after = _link_bytes()
    if identity.rank == 0:
        measured = Measured(
            step_s=[end - begin for begin, end in itertools.pairwise(ends_s)],
            cpu_s=cpu_s / order.steps,
            sent_bytes=(sent_after - sent) / order.steps,
            received_bytes=(received_after - received) / order.steps,
            counted_bytes=dict(reports[-1].received_bytes),
            exposed_s={
                level: sum(report.exposed_s[level] for report in reports) / order.steps
                for level in reports[-1].exposed_s
            },
            optimizer_s=sum(report.optimizer_s for report in reports) / order.steps,
            loss=reports[-1].loss,
        )
        order.answer.write_text(measured.model_dump_json())
    return _leave(store, identity)


def calibrated(order: CalibrationOrder, identity: Identity) -> Result:
    """Be a rank: measure the machine.

    Args:
        order: The order.
        identity: Of this rank.

    Returns:
        That it went well.
    """
    store = _join(order.directory, identity)
    found = calibrate(order.calibration, torch.device("cpu"))
    if identity.rank == 0:
        order.answer.write_text(found.model_dump_json())
    return _leave(store, identity)


def _join(directory: Path, identity: Identity) -> "dist.FileStore":  # type: ignore[name-defined]  # not in its __all__
    torch.set_num_threads(1)
    # A file: the ranks' talk about how to reach each other is not to cross the links.
    store = dist.FileStore(str(directory / "store"), identity.num_ranks)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=identity.rank, world_size=identity.num_ranks)
    return store


def _leave(store: "dist.FileStore", identity: Identity) -> Result:  # type: ignore[name-defined]
    """Wait for all: a rank that ends resets its connections, also those that others read from."""
    store.add("done", 1)
    while store.add("done", 0) < identity.num_ranks:
        time.sleep(_POLL_S)
    return Result(status="finished")


def _link_bytes() -> tuple[int, int]:
    """Return what this node has received and sent over its link so far; 0 without one."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == INTERFACE:
            columns = numbers.split()
            return int(columns[_RECEIVED]), int(columns[_SENT])
    return 0, 0


def main() -> None:
    """Serve orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print there what nobody here asked for
    for line in sys.stdin:
        order: Order | CalibrationOrder = _ORDERS.validate_json(line)
        if isinstance(order, Order):
            importlib.import_module(_MODULES[order.experiment.engine])  # once, for all ranks
            experiment, work = order.experiment, functools.partial(measure, order)
        else:
            experiment = order.calibration.ranks_experiment
            work = functools.partial(calibrated, order)
        per_node = experiment.ranks // order.num_nodes
        here = all_ranks(experiment)[order.node * per_node :][:per_node]
        end = run_ranks(here, work, StopRequest())
        print(end.result.model_dump_json(), file=answers, flush=True)


if __name__ == "__main__":
    main()
