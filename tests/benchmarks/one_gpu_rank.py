"""The only rank of a training, on one device, which times as many train steps as it is asked to.

The first line of its input is an experiment; every other line is a number of train steps, answered
by a line with what was measured.
"""

import os
import sys
import time

import torch
from torch import distributed as dist

from configs.base import Record
from configs.training import TrainingExperiment
from tasks.zero.engines import build_engine

_LR = 1e-4


class Steps(Record):
    """Some train steps.

    Attributes:
        step_s: How long each took.
        loss: Of the last one.
        peak_bytes: Most memory of the device that tensors ever had; 0 on a CPU.
    """

    step_s: list[float]
    loss: float
    peak_bytes: int


def main() -> None:
    """Serve until there is no more input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print there what nobody here asked for
    experiment = TrainingExperiment.model_validate_json(sys.stdin.readline())
    is_cuda = experiment.device == "cuda"
    device = torch.device("cuda", 0) if is_cuda else torch.device("cpu")
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch exports it at run time
    dist.init_process_group("nccl" if is_cuda else "gloo", store=store, rank=0, world_size=1)
    engine = build_engine(experiment, device)
    shape = (experiment.accumulation, experiment.micro_batch, experiment.sequence + 1)
    generator = torch.Generator().manual_seed(experiment.seed)
    micro_batches = list(torch.randint(experiment.model.vocabulary, shape, generator=generator))
    for line in sys.stdin:
        times_s, loss = [], 0.0
        for _ in range(int(line)):
            began = time.perf_counter()
            loss = engine.train_step(micro_batches, _LR).loss
            if is_cuda:
                torch.cuda.synchronize(device)
            times_s.append(time.perf_counter() - began)
        peak_bytes = torch.cuda.max_memory_allocated(device) if is_cuda else 0
        steps = Steps(step_s=times_s, loss=loss, peak_bytes=peak_bytes)
        print(steps.model_dump_json(), file=answers, flush=True)
    os._exit(0)  # what engines leave behind is none of the benchmark's business


if __name__ == "__main__":
    main()
