"""The engine on one GPU, over NCCL: what it trains there is what it trains on a CPU."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from configs.training import TrainingExperiment
from tasks.zero.engines import build_engine
from tests.unit.zero.engine_runs import CPU, TINY, micro_batches, tiny

CUDA = torch.device("cuda", 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@contextmanager
def world(device: torch.device) -> Generator[None]:
    """One rank."""
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch exports it at run time
    backend = "nccl" if device.type == "cuda" else "gloo"
    bound = device if device.type == "cuda" else None
    dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=bound)
    try:
        yield
    finally:
        dist.destroy_process_group()


def alone(**fields: Any) -> TrainingExperiment:
    """Return an experiment of one rank and six train steps."""
    return tiny(**{"ranks": 1, "steps": 6, "partition": "zero3", "accumulation": 2} | fields)


def losses(
    experiment: TrainingExperiment,
    device: torch.device,
    *,
    begin: int = 0,
    end: int = 6,
    load: Path | None = None,
    save: Path | None = None,
) -> list[float]:
    """Return the losses of some train steps, and of a validation after them."""
    with world(device), closing(build_engine(experiment, device)) as engine:
        if load is not None:
            engine.load(load)
        found = [
            engine.train_step(micro_batches(experiment, step, 0), experiment.optimizer.lr).loss
            for step in range(begin, end)
        ]
        if save is not None:
            engine.begin_save(save).wait()
        return [*found, engine.evaluate(micro_batches(experiment, 99, 0))]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("engine", ["ours", "fsdp2"])
def test_a_gpu_trains_as_a_cpu_does(engine: str, *, recompute: bool) -> None:
    """In float64 the losses are the same, to sums in another order."""
    experiment = alone(engine=engine, recompute=recompute)

    assert losses(experiment, CUDA) == pytest.approx(losses(experiment, CPU), rel=1e-9)


@pytest.mark.parametrize("engine", ["ours", "fsdp2", "deepspeed"])
def test_passes_and_updates_are_timed_where_they_run(engine: str) -> None:
    """Kernels are counted where they were asked for, though they run after that."""
    experiment = alone(
        engine=engine,
        model=TINY | {"hidden": 512},
        sequence=512,
        micro_batch=8,
        accumulation=4,
        dtype="float32",
    )
    with world(CUDA), closing(build_engine(experiment, CUDA)) as built:
        for step in range(3):
            report = built.train_step(micro_batches(experiment, step, 0), 1e-3)

    # 16,384 tokens, 0.6 TFLOP and more, before 6 million weights are updated once.
    assert report.compute_s > 3 * report.optimizer_s


@pytest.mark.parametrize("engine", ["ours", "fsdp2", "deepspeed"])
def test_the_end_of_an_update_is_waited_for(engine: str) -> None:
    """Else its kernels, which run after they were asked for, count as passes of the next step."""
    model = TINY | {"hidden": 4096, "heads": 32}  # 400 million weights take milliseconds
    experiment = alone(engine=engine, model=model, sequence=2, accumulation=1, dtype="float32")
    with world(CUDA), closing(build_engine(experiment, CUDA)) as built:
        for step in range(2):
            built.train_step(micro_batches(experiment, step, 0), 1e-3)
            assert torch.cuda.current_stream(CUDA).query()


@pytest.mark.parametrize(
    ("fields", "relative"),
    [
        ({"dtype": "bfloat16"}, 1e-2),
        ({"dtype": "float32"}, 1e-4),
        ({"dtype": "float32", "transport": {"refresh": "int8", "block_size": 32}}, 1e-2),
    ],
)
def test_shorter_types_train_on_a_gpu(fields: dict[str, Any], relative: float) -> None:
    """With master weights beside, and with the refresh quantized on the way: near the CPU's."""
    experiment = alone(**fields)

    assert losses(experiment, CUDA) == pytest.approx(losses(experiment, CPU), rel=relative)


def test_a_state_saved_on_a_gpu_goes_on(tmp_path: Path) -> None:
    """Saved after three steps, and loaded by a GPU or a CPU, it loses as without a stop."""
    experiment = alone()
    whole = losses(experiment, CUDA)

    first = losses(experiment, CUDA, end=3, save=tmp_path)

    for device in (CUDA, CPU):
        rest = losses(experiment, device, begin=3, load=tmp_path)
        assert first[:3] + rest == pytest.approx(whole, rel=1e-9)
