"""What one rank computes, while all others of its node do the same.

Blocks run as the engine runs them: each on a detached input, forward through all, then backward.
Small blocks show what small kernels and Python cost.
"""

import os
import platform
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import nn

from configs.gpt import Gpt
from configs.topology import Dtype
from configs.training import AdamW
from models.gpt import GptStages
from tasks.zero.calibrate_fit import MeasuredDevice, Sample, fit_line, usable_bytes
from tasks.zero.calibrate_times import Clock
from tasks.zero.costs.computing import update_bytes
from tasks.zero.engine import DTYPES
from tasks.zero.lanes import Exposed, make_lane
from tasks.zero.optimizer import UnitOptimizer
from tasks.zero.units import Unit, units_of_stage
from tasks.zero.wires import Coder

WIDTHS = {"cpu": (64, 128, 256, 512, 768), "cuda": (512, 1024, 2048, 4096, 8192)}
TOKENS = {"cpu": 128, "cuda": 2048}
NUM_BLOCKS = 4
"""Blocks that are passed one after the other."""
_NUM_VALUES = {"cpu": 2**20, "cuda": 2**27}
"""Of the vectors that are copied: larger than a cache."""
_HEAD_WIDTH = 64
_BLOCK_SIZE = 256
_NUM_ROWS, _NUM_PIECES = 4, 4
_CALLS = 4
"""Of the quantizers, for a gather and a reduction."""
_GIGA, _TERA = 1e9, 1e12
_UNCLIPPED = 1.0
_SHORTEST_S = 1e-6
_ROUNDS = 3
"""Of all widths, one after the other."""
_PASSES = 3
"""A backward pass counts as two forward ones."""


class RateMeter:
    """Measures what a device computes; made, and used, by all ranks at the same time.

    Args:
        device: The device.
        dtype: Of the blocks; None for the device's usual one.
        clock: Times.
    """

    def __init__(self, device: torch.device, dtype: Dtype | None, clock: Clock) -> None:
        usual: Dtype = "bfloat16" if device.type == "cuda" else "float32"
        self._device, self._clock, self._dtype = device, clock, dtype or usual

    def measure(
        self, widths: Sequence[int], tokens: int | None, *, local_ranks: int
    ) -> MeasuredDevice:
        """Measure blocks of several widths, quantizers, update and memory.

        Args:
            widths: Of the blocks, ascending; empty for the usual ones.
            tokens: Of a micro-batch; None for the usual number.
            local_ranks: Ranks of this node, which share its memory where they are CPUs.
        """
        tokens = tokens or TOKENS[self._device.type]
        widths = widths or WIDTHS[self._device.type]
        middle = widths[len(widths) // 2]
        narrow = widths[: len(widths) // 2 + 1] if len(widths) > 1 else (middle, 2 * middle)
        return MeasuredDevice(
            name=self._name(),
            memory_bytes=self._memory_bytes(local_ranks),
            dtype=self._dtype,
            rates=self._rates(widths, tokens),
            copy_bytes_per_s=self._copy(),
            quantize=fit_line(
                [self._quantize(width, self.passes(width, tokens)) for width in narrow]
            ),
            optimizer=fit_line([self._update(width) for width in narrow]),
        )

    def passes(self, width: int, tokens: int | None = None) -> Callable[[], object]:
        """Return forward and backward passes of some blocks over a micro-batch.

        Args:
            width: h.
            tokens: Of the one sequence; None for the usual number.

        Returns:
            What does the passes of ``NUM_BLOCKS`` blocks: forward through all of them, then back,
            so that none finds its weights in a cache where a training would not.
        """
        tokens = tokens or TOKENS[self._device.type]
        dtype = DTYPES[self._dtype]
        stages, units = self._blocks(width, tokens, NUM_BLOCKS, dtype)
        first = torch.randn(1, tokens, width, device=self._device).to(dtype)

        def once() -> None:
            inputs, outputs, x = [], [], first
            for stage in stages:
                inputs.append(x.detach().requires_grad_())
                x = stage(inputs[-1])
                outputs.append(x)
            gradient = first
            for unit in reversed(units):
                torch.autograd.backward(outputs.pop(), gradient)
                grad = inputs.pop().grad
                gradient = first if grad is None else grad
                for _, parameter in unit.parameters:
                    parameter.grad = None  # its copy into one vector is priced by its bytes

        return once

    def _blocks(
        self, width: int, tokens: int, num_blocks: int, dtype: torch.dtype
    ) -> tuple[list[nn.Module], list[Unit]]:
        """Make blocks on the device, and their units."""
        heads = width // (_HEAD_WIDTH if width % _HEAD_WIDTH == 0 else _HEAD_WIDTH // 2)
        config = Gpt(layers=num_blocks, hidden=width, heads=heads, vocabulary=2)
        with torch.device("meta"):
            stages = list(GptStages(config, tokens).stages[1:-1])
        units = []
        for number, stage in enumerate(stages):
            stage.to_empty(device=self._device)
            for parameter in stage.parameters():
                parameter.data.normal_(0.0, config.init_std)
            units += units_of_stage(number, stage, frozen=(), degree=1, block_size=1)
            units[-1].take_over(dtype, self._device)
        return stages, units

    def _rates(self, widths: Sequence[int], tokens: int) -> list[tuple[float, float]]:
        """Return GFLOPs and TFLOPS of each width: medians over rounds, as no machine is steady."""
        passes = [self.passes(width, tokens) for width in widths]
        rounds = [[self._clock.work_s(one) for one in passes] for _ in range(_ROUNDS)]
        rates = []
        for width, some in zip(widths, zip(*rounds, strict=True), strict=True):
            flops = tokens * Gpt(hidden=width, heads=1).block_flops_per_token(tokens)
            done = NUM_BLOCKS * _PASSES * flops
            rates.append((flops / _GIGA, done / statistics.median(some) / _TERA))
        return rates

    def _copy(self) -> float:
        source = torch.zeros(_NUM_VALUES[self._device.type], device=self._device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self._clock.work_s(lambda: target.copy_(source))

    def _quantize(self, width: int, compute: Callable[[], object]) -> Sample:
        """Return bytes and time of a call, the mean of a gather's coding and of a reduction's.

        A gather packs a shard in INT8 and unpacks the shards of all; a reduction packs everybody's
        piece in INT4 and adds up what came. Each into memory of its own, as there. Where computing
        beside it loses more than its time, that counts, too.

        Args:
            width: Of the block of whose parameters they are.
            compute: A piece of computing.
        """
        # As long as a unit: the parameters of a block.
        parameters = Gpt(hidden=width, heads=1).block_parameters
        length = max(1, parameters // _NUM_ROWS // _BLOCK_SIZE) * _BLOCK_SIZE
        dtype = DTYPES[self._dtype]
        rows = torch.randn((_NUM_ROWS, length), device=self._device).to(dtype)
        gather = Coder("int8", dtype, length, _BLOCK_SIZE)
        reduce = Coder("int4", dtype, length, _BLOCK_SIZE)
        gathered, received = gather.encode(rows), reduce.encode(rows)
        sums = torch.float32 if dtype == torch.bfloat16 else dtype

        def both() -> None:
            gather.encode(rows[:1])
            gather.decode(gathered, torch.empty_like(rows))
            reduce.encode(rows)
            reduce.decode_sum(received, sums)

        values_bytes = rows.nbytes + rows[0].nbytes  # the shard is read, all values written
        gather_bytes = values_bytes + gathered.nbytes + gathered[0].nbytes
        reduce_bytes = rows.nbytes + 2 * received.nbytes + length * sums.itemsize
        lane = make_lane(self._device, "coding", Exposed())
        try:
            found = self._clock.beside(
                lambda: [lane.submit(both, None) for _ in range(_NUM_PIECES)], compute
            )
        finally:
            lane.close()
        calls = _NUM_PIECES * _CALLS
        num_bytes = _NUM_PIECES * (gather_bytes + reduce_bytes)
        return Sample(num_bytes / calls, max(found.own_s, _SHORTEST_S) / calls)

    def _update(self, width: int) -> Sample:
        """Return bytes and time of what the engine does of a unit at the end of a train step."""
        _, (unit,) = self._blocks(width, 2, 1, torch.float32)
        optimizer = UnitOptimizer(AdamW(), unit, unit.buffer, 0)
        gradient, sums = torch.randn_like(unit.buffer), torch.zeros_like(unit.buffer)
        squares = torch.zeros((), dtype=torch.float64, device=self._device)

        def once() -> None:
            squares.add_(torch.linalg.vector_norm(gradient).double() ** 2)
            optimizer.step(gradient.mul_(_UNCLIPPED), 1e-3)
            sums.zero_()

        num_bytes = update_bytes(gradient.numel(), gradient.itemsize)
        return Sample(num_bytes, self._clock.work_s(once))

    def _name(self) -> str:
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"its share of {os.cpu_count()} cores ({platform.machine()})"

    def _memory_bytes(self, local_ranks: int) -> int:
        if self._device.type == "cuda":
            return usable_bytes(torch.cuda.get_device_properties(self._device).total_memory)
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // local_ranks
