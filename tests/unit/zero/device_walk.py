"""Program: train steps on a device that is not there, to see that every tensor lies on it.

Tensors have shape, type and device, but no values (PyTorch's fake tensors); the device is one that
PyTorch lets Python make up; collectives move nothing. So a machine without a GPU finds what a GPU
would refuse first: operations between a tensor of the device and one that was left on the CPU, and
shapes of the ways that only GPUs take (streams, kernels, sums by the backend). Arithmetic, and what
runs beside what, it does not see.

It is a process of its own, as a device that was made up stays:

    python -m tests.unit.zero.device_walk

With ``--misplace`` it leaves a tensor on the CPU, which must be found.
"""

import itertools
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from configs.training import TrainingExperiment
from tasks.zero import collectives, lanes, quantize, routes
from tasks.zero.blocks import Blocks
from tasks.zero.engine import Engine
from tasks.zero.engines import build_engine
from tests.unit.zero.engine_runs import TINY, micro_batches, tiny

NAME = "pretended"
DEVICE_NUMBER = 0
ALL_QUANTIZED = {"weights": "int8", "gradients": "int4", "sync": "int4", "refresh": "int8"}
PARTITIONS: tuple[Any, ...] = ("ddp", "zero1", "zero2", "zeropp", "mics", "hfsdp", "zero_topo")
PARTITIONS += ({"forward": 4, "backward": 2, "gradients": 4, "optimizer": 4},)
TRANSPORTS: tuple[Any, ...] = (
    "full",
    {"sync": "bfloat16", "refresh": "bfloat16"},
    ALL_QUANTIZED | {"error_feedback": True, "reuse_secondary": True},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"model": TINY | {"tied": True}, "frozen": ["stages.1.attention*"], "recompute": True},
    {"transport": "sdp4bit", "frozen": ["stages.0*"]},
    {"transport": "sdp4bit", "partition": "zero1", "dtype": "float32"},
)


class Event:
    """One of a stream that does all at once."""

    def __init__(self, *, enable_timing: bool = False) -> None:
        del enable_timing

    def record(self, stream: object = None) -> None:
        """See ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """See ``torch.cuda.Event``."""

    def elapsed_time(self, end: "Event") -> float:
        """See ``torch.cuda.Event``; no time passes."""
        del end
        return 0.0


class Stream:
    """A stream that does all at once."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def record_event(self) -> Event:
        """See ``torch.cuda.Stream``."""
        return Event()

    def wait_event(self, event: Event) -> None:
        """See ``torch.cuda.Stream``."""

    def wait_stream(self, stream: "Stream") -> None:
        """See ``torch.cuda.Stream``."""

    def query(self) -> bool:
        """See ``torch.cuda.Stream``."""
        return True


def _kernels() -> types.ModuleType:
    """Return a module in place of ``triton_kernels`` that checks what its functions are given."""

    def check(rows: Tensor, payload: Tensor, blocks: Blocks) -> None:
        assert rows.device.type == payload.device.type == NAME
        assert payload.dtype == torch.uint8
        assert rows.shape[-1] == blocks.length
        assert payload.shape[-1] == blocks.payload_bytes

    def quantized(values: Tensor, payload: Tensor, blocks: Blocks) -> None:
        check(values, payload, blocks)
        assert len(values) == len(payload)

    def dequantized(payload: Tensor, values: Tensor, blocks: Blocks) -> None:
        quantized(values, payload, blocks)

    def summed(payload: Tensor, out: Tensor, blocks: Blocks, *, accumulate: bool) -> None:
        del accumulate
        check(out, payload, blocks)
        assert out.dim() == 1

    module = types.ModuleType("tasks.zero.triton_kernels")
    for name, function in zip(
        ("quantize", "dequantize", "dequantize_sum"), (quantized, dequantized, summed), strict=True
    ):
        setattr(module, name, function)
    return module


def _apply(self: nn.Module, function: Any, recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
    """Do what ``Module._apply`` does, which swaps tensors that cannot be swapped with fake ones."""
    del recurse
    for child in self.children():
        _apply(child, function)
    for name, parameter in list(self._parameters.items()):
        if parameter is not None:
            moved = function(parameter.detach())
            self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in list(self._buffers.items()):
        self._buffers[name] = None if buffer is None else function(buffer)
    return self


@contextmanager
def pretending() -> Iterator[torch.device]:
    """Yield the device, with which what asks for a GPU goes the ways of one."""
    _setup_privateuseone_for_python_backend(NAME)
    kernels, order_of, init = _kernels(), routes._order, collectives.Fabric.__init__

    def sums_as_on_gpus(self: collectives.Fabric, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self._is_summed_by_backend = True

    def order(hop: Any, device: torch.device) -> Tensor | None:
        found = order_of(hop, torch.device("cpu"))  # torch.tensor knows no made-up device
        return None if found is None else found.to(device)

    def lane(device: torch.device, name: str, exposed: lanes.Exposed) -> lanes.Lane:
        return lanes.StreamLane(device, name, exposed)

    def norm_and_loss(self: Engine, loss: Tensor, scale: float) -> tuple[float, float]:
        del scale
        squares = torch.zeros((), dtype=torch.float64, device=self._device)
        for gradients in self._gradients.values():
            squares += torch.linalg.vector_norm(gradients.take_sum()).double() ** 2
        self._fabric.sum_scalars(torch.stack([squares, loss]))
        return 3.0, 2.0  # there are no values; a norm that is clipped

    def has_kernels(device: torch.device) -> bool:
        return device.type == NAME

    with ExitStack() as stack:
        for target, name, value in (
            (torch.cuda, "Event", Event),
            (torch.cuda, "Stream", Stream),
            (torch.cuda, "current_stream", Stream),
            (torch.cuda, "stream", nullcontext),
            (nn.Module, "_apply", _apply),
            (routes, "_order", order),
            (collectives, "make_lane", lane),
            (collectives.Fabric, "__init__", sums_as_on_gpus),
            (quantize, "_has_kernels", has_kernels),
            (Engine, "_norm_and_loss", norm_and_loss),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mock.patch.dict(sys.modules, {kernels.__name__: kernels}))
        stack.enter_context(mock.patch("tasks.zero.triton_kernels", kernels, create=True))
        yield torch.device(NAME, DEVICE_NUMBER)


def walk(experiment: TrainingExperiment, device: torch.device) -> None:
    """Do two train steps and an export as rank 0.

    Args:
        experiment: The training.
        device: The pretended one.
    """
    dist.init_process_group(
        f"cpu:fake,{NAME}:fake", store=FakeStore(), rank=0, world_size=experiment.ranks
    )
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            engine = build_engine(experiment, device)
            for step in range(2):
                engine.train_step(micro_batches(experiment, step, 0), 1e-3)
            for _, weights in engine.full_weights():
                assert weights.device.type == "cpu"
            engine.close()
    finally:
        dist.destroy_process_group()


def main(argv: list[str]) -> int:
    """Walk through all trainings, saying which.

    Args:
        argv: ``--misplace`` or nothing.

    Returns:
        0.

    Raises:
        RuntimeError: Two tensors that meet are not on one device.
        AssertionError: A kernel is given what it cannot take.
    """
    walks = [
        {"partition": partition, "transport": transport, "dtype": "bfloat16"}
        for partition, transport in itertools.product(PARTITIONS, TRANSPORTS)
    ]
    walks += [{"partition": "zeropp", "dtype": "bfloat16"} | fields for fields in OTHERS]
    with pretending() as device:
        if "--misplace" in argv:
            take_sum = "tasks.zero.gradients.UnitGradients.take_sum"
            with mock.patch(take_sum, return_value=torch.zeros(3)):
                walk(tiny(**walks[0]), device)
        for fields in walks:
            walk(tiny(accumulation=2, **fields), device)
    sys.stdout.write(f"{len(walks)} trainings\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
