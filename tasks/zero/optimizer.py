"""AdamW on shards: master weights and moments of a unit, of the optimizer's degree.

The update itself is PyTorch's, on two contiguous slices of the shard: that of the matrices, which
decay, and that of the parameters of one dimension, which do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.training import AdamW
from tasks.zero.flat_slices import FlatSlice
from tasks.zero.units import Unit

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Slice:
    """A contiguous part of a rank's master shard.

    Attributes:
        kind: ``matrices`` or ``vectors``.
        total: Elements of that kind in the whole unit.
        offset: Where the slice begins among them.
        begin: Where it begins in the shard.
        parameter: The slice itself.
    """

    kind: str
    total: int
    offset: int
    begin: int
    parameter: nn.Parameter

    @property
    def end(self) -> int:
        """Where it ends in the shard."""
        return self.begin + self.parameter.numel()


class UnitOptimizer:
    """AdamW of one unit's shard on one rank.

    Args:
        config: Rates and decays.
        unit: A trainable unit.
        master: This rank's master weights, shape (padded_length / optimizer,), float32 or float64;
            changed in place.
        offset: Where they begin in the unit.
    """

    def __init__(self, config: AdamW, unit: Unit, master: Tensor, offset: int) -> None:
        self.master = master
        self._name = unit.name
        self._slices = list(_slices(unit, master, offset))
        decays = {"matrices": config.weight_decay, "vectors": 0.0}
        groups = [{"params": [s.parameter], "weight_decay": decays[s.kind]} for s in self._slices]
        self._adam = (
            torch.optim.AdamW(
                groups,
                lr=config.lr,
                betas=(config.beta1, config.beta2),
                eps=config.epsilon,
                fused=True,
            )
            if groups  # a shard may be nothing but padding
            else None
        )
        for one in self._slices:  # so that a checkpoint can be loaded before the first step
            if self._adam is not None:
                self._adam.state[one.parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=master.device),
                    **{name: torch.zeros_like(one.parameter.data) for name in _MOMENTS},
                }

    @property
    def state_bytes(self) -> int:
        """Bytes of master weights and moments."""
        return (1 + len(_MOMENTS)) * self.master.numel() * self.master.itemsize

    def step(self, gradient: Tensor, lr: float) -> None:
        """Update the master weights.

        Args:
            gradient: Mean gradient, clipped, as long as the master weights and of their type.
            lr: Learning rate.
        """
        if self._adam is None:
            return
        for group in self._adam.param_groups:
            group["lr"] = lr
        for one in self._slices:
            one.parameter.grad = gradient[one.begin : one.end]
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, FlatSlice]]:
        """Yield what a checkpoint holds: weights and moments, by names that no degree changes."""
        for one in self._slices:
            for name, values in (("master", one.parameter.data), *self._moments(one)):
                key = f"{name}/{self._name}/{one.kind}"
                yield key, FlatSlice(one.total, one.offset, values)

    def _moments(self, one: _Slice) -> Iterator[tuple[str, Tensor]]:
        if self._adam is not None:
            state = self._adam.state[one.parameter]
            yield from ((name, state[name]) for name in _MOMENTS)

    def set_num_updates(self, num_updates: int) -> None:
        """Say how many updates the moments have seen, after they were loaded.

        Args:
            num_updates: Train steps that were not skipped.
        """
        for one in self._slices:
            if self._adam is not None:
                self._adam.state[one.parameter]["step"].fill_(num_updates)


def _slices(unit: Unit, master: Tensor, offset: int) -> Iterator[_Slice]:
    """Divide a master shard by kind; what is only padding is in no slice."""
    ends = {
        "matrices": (0, unit.num_decayed),
        "vectors": (unit.num_decayed, unit.length),
    }
    for kind, (first, last) in ends.items():
        begin, end = max(first, offset), min(last, offset + master.numel())
        if begin < end:
            values = nn.Parameter(master[begin - offset : end - offset])
            yield _Slice(kind, last - first, begin - first, begin - offset, values)
