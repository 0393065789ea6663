"""How close the kernels and the engine come to what one GPU can do.

    python -m tasks.zero.bench_gpu --model gpt-1.3b --topology my-machine.yaml

(a) Bytes read and written per second by the quantization kernels, beside a copy on the same device
    in the same run: 80 % of the copy is the target.
(b) Train steps of a GPT by our engine on one rank, beside the same model without an engine: the
    same compiled arithmetic, float32 master weights, clipping and fused AdamW, written plainly. 2 %
    is the most that the engine may cost. MFU is told where the topology tells the device's peak.

On a CPU (``--device cpu``) the same code runs, for tests; there the targets mean nothing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from configs.training import TrainingExperiment
from tasks.runtime.output import say
from tasks.zero.engine import DTYPES
from tasks.zero.engines import build_engine, whole_model
from tasks.zero.quantize import dequantize, dequantize_sum, payload_bytes, quantize
from tasks.zero.speed import peak_tflops

COPY_TARGET = 0.8
STEP_TARGET = 0.98
_BLOCK_SIZE = 256
_NUM_ROWS = 8
_IN_A_ROW = 50
"""Calls of a kernel between two looks at the clock: only the first launch is waited for."""
_WARM_UP_STEPS = 3
_NO_DEVICE = 2


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: Of what.
        value: GB/s of a kernel, TFLOPS of a training.
        unit: Which of them.
        share: Of the copy's bandwidth, or of the plain training's speed.
        target: Least share; None for what the others are compared with.
        mfu: TFLOPS over the device's peak, if it is known.
    """

    name: str
    value: float
    unit: str
    share: float
    target: float | None = None
    mfu: float | None = None

    def __str__(self) -> str:
        text = f"{self.name:<34}{self.value:10.1f} {self.unit:<7}{self.share:8.1%}"
        if self.target is not None:
            verdict = "met" if self.share >= self.target else "MISSED"
            text += f"  target {self.target:.0%}: {verdict}"
        return text if self.mfu is None else f"{text}  MFU {self.mfu:.1%}"


def bench_gpu(
    experiment: TrainingExperiment, device: torch.device, *, steps: int, num_values: int
) -> list[Row]:
    """Measure the kernels, then the engine.

    Args:
        experiment: Of one rank.
        device: Where.
        steps: Train steps that are timed, after some that are not.
        num_values: Values that the kernels work on.

    Returns:
        The measurements, the copy and the plain training first of their kinds.
    """
    return [*_kernel_rows(device, num_values, steps), *_training_rows(experiment, device, steps)]


def _kernel_rows(device: torch.device, num_values: int, repeats: int) -> Iterator[Row]:
    values = torch.randn(num_values, device=device).bfloat16()
    target = torch.empty_like(values)
    total = torch.empty(num_values // _NUM_ROWS, device=device)

    def rate(num_bytes: int, work: Callable[[], object]) -> float:
        def in_a_row() -> None:
            for _ in range(_IN_A_ROW):
                work()

        return _IN_A_ROW * num_bytes / _median_s(in_a_row, device, repeats) / 1e9

    copied = rate(2 * values.nbytes, lambda: target.copy_(values))
    yield Row("copy", copied, "GB/s", 1.0)
    for bits in (8, 4):
        size = payload_bytes(num_values, bits=bits, block_size=_BLOCK_SIZE)
        payload = torch.empty(size, dtype=torch.uint8, device=device)
        pieces = values[: len(total) * _NUM_ROWS].view(_NUM_ROWS, -1)
        rows = quantize(pieces, bits=bits, block_size=_BLOCK_SIZE)

        def pack(bits: int = bits, payload: Tensor = payload) -> None:
            quantize(values, bits=bits, block_size=_BLOCK_SIZE, out=payload)

        def unpack(bits: int = bits, payload: Tensor = payload) -> None:
            dequantize(
                payload,
                length=num_values,
                bits=bits,
                block_size=_BLOCK_SIZE,
                dtype=target.dtype,
                out=target,
            )

        def add_up(bits: int = bits, rows: Tensor = rows) -> None:
            dequantize_sum(rows, length=len(total), bits=bits, block_size=_BLOCK_SIZE, out=total)

        for name, num_bytes, work in (
            (f"quantize INT{bits}", values.nbytes + payload.nbytes, pack),
            (f"dequantize INT{bits}", values.nbytes + payload.nbytes, unpack),
            (f"dequantize and sum {_NUM_ROWS} x INT{bits}", rows.nbytes + total.nbytes, add_up),
        ):
            found = rate(num_bytes, work)
            yield Row(name, found, "GB/s", found / copied, COPY_TARGET)


def _training_rows(
    experiment: TrainingExperiment, device: torch.device, steps: int
) -> Iterator[Row]:
    flops = experiment.sequences_per_step * experiment.model.model_flops(experiment.sequence)
    peak = peak_tflops(experiment)
    plain_s = _plain_step_s(experiment, device, steps)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    engine_s = _engine_step_s(experiment, device, steps)
    for name, step_s, target in (("plain", plain_s, None), ("engine", engine_s, STEP_TARGET)):
        tflops = flops / step_s / 1e12
        mfu = tflops / peak if peak else None
        label = f"{experiment.model.preset or 'gpt'}, {name}"
        yield Row(label, tflops, "TFLOPS", plain_s / step_s, target, mfu)


def _engine_step_s(experiment: TrainingExperiment, device: torch.device, steps: int) -> float:
    tokens = _tokens(experiment, device)
    with _world_of_one(device):
        engine = build_engine(experiment, device)
        try:
            return _median_s(
                lambda: engine.train_step([tokens], experiment.optimizer.lr), device, steps
            )
        finally:
            engine.close()


def _plain_step_s(experiment: TrainingExperiment, device: torch.device, steps: int) -> float:
    """Train without an engine, in the same arithmetic: master weights are float32 copies."""
    model = whole_model(experiment).to(device)
    masters = [parameter.detach().clone() for parameter in model.parameters()]
    model = model.to(DTYPES[experiment.dtype])
    loss_of_tokens = torch.compile(model.loss) if experiment.compile else model.loss
    weights: list[Tensor] = list(model.parameters())
    config = experiment.optimizer
    groups = [
        {"params": [m for m in masters if m.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [m for m in masters if m.dim() == 1], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    adam = torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.epsilon, fused=True)
    tokens = _tokens(experiment, device)

    def train_step() -> float:
        loss = loss_of_tokens(tokens)
        torch.autograd.backward(loss)
        for weight, master in zip(weights, masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.to(master.dtype)
            weight.grad = None
        if config.clip:
            torch.nn.utils.clip_grad_norm_(masters, config.clip)
        adam.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
        return loss.item()  # as the engine reports it

    return _median_s(train_step, device, steps)


def _tokens(experiment: TrainingExperiment, device: torch.device) -> Tensor:
    shape = (experiment.micro_batch, experiment.sequence + 1)
    generator = torch.Generator().manual_seed(experiment.seed)
    return torch.randint(experiment.model.vocabulary, shape, generator=generator).to(device)


def _median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times_s = []
    for number in range(_WARM_UP_STEPS + repeats):
        _synchronize(device)
        began = time.perf_counter()
        work()
        _synchronize(device)
        if number >= _WARM_UP_STEPS:
            times_s.append(time.perf_counter() - began)
    return statistics.median(times_s)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _world_of_one(device: torch.device) -> Iterator[None]:
    backend, bound = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch exports it at run time
    dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=bound)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_parser() -> argparse.ArgumentParser:
    """Return the options, which are also those of ``watershed bench gpu``."""
    parser = argparse.ArgumentParser(prog="bench_gpu", description="Kernels and engine on a GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", default="gpt-1.3b", help="a preset")
    parser.add_argument("--topology", default="mini", help="a machine; tells the device's peak")
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20, help="timed repeats, of everything")
    parser.add_argument("--values", type=int, default=2**28, help="that the kernels work on")
    parser.add_argument("--no-compile", action="store_true")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, and print a line for each measurement.

    Args:
        argv: Options; those of the process by default.

    Returns:
        Exit status: 0, or 2 where there is no such device.
    """
    options = make_parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no CUDA device here; --device cpu tries the code, not the speed\n")
        return _NO_DEVICE
    # By number, as a process group wants it.
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    experiment = TrainingExperiment.model_validate(
        {
            "kind": "training",
            "model": options.model,
            "topology": options.topology,
            "sequence": options.sequence,
            "micro_batch": options.micro_batch,
            "ranks": 1,
            "partition": "zero_topo",
            "dtype": "bfloat16",
            "compile": not options.no_compile,
            "device": options.device,
        }
    )
    rows = bench_gpu(experiment, device, steps=options.steps, num_values=options.values)
    for row in rows:
        say(str(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
